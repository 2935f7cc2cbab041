// Loads an image into an OhmLoom system and runs a picture on it: a test bench in plain Verilog-2001, for any simulator.
//
//     run_image +image=image.load +picture=picture-0.load [+reset=CLOCKS]
//
// Both files come from `python -m sim.host.loading IMAGE_DIR --output DIR`; sim/host/sections.py says what they hold. The
// design is `system.v` of `make verilog`, a tile with an emulated crossbar; ohmloom.vh is what
// `python -m rtl.generate --registers ohmloom.vh` writes. Prints the scores and the clocks of the run, one a line.
// With +reset the system is reset that many clocks after the run has begun, and the picture is sent and run anew: tables
// and cells are memories and keep what was loaded.

`timescale 1ns / 1ps
`include "ohmloom.vh"

module run_image;
    localparam HEAD_WORDS = 8;
    localparam PATIENCE = 50000000;  // clocks until the bench gives up

    reg clk = 0, rst = 1;
    always #5 clk = !clk;

    // ---- the device
    reg [27:0] awaddr = 0, araddr = 0;
    reg [31:0] wdata = 0, tdata = 0;
    reg awvalid = 0, wvalid = 0, bready = 0, arvalid = 0, rready = 0, tvalid = 0, tlast = 0;
    wire awready, wready, bvalid, arready, rvalid, tready, irq;
    wire [1:0] bresp, rresp;
    wire [31:0] rdata;
    system dut (
        .clk(clk), .rst(rst), .irq(irq),
        .s_axil_awaddr(awaddr), .s_axil_awprot(3'b0), .s_axil_awvalid(awvalid), .s_axil_awready(awready),
        .s_axil_wdata(wdata), .s_axil_wstrb(4'hF), .s_axil_wvalid(wvalid), .s_axil_wready(wready),
        .s_axil_bresp(bresp), .s_axil_bvalid(bvalid), .s_axil_bready(bready),
        .s_axil_araddr(araddr), .s_axil_arprot(3'b0), .s_axil_arvalid(arvalid), .s_axil_arready(arready),
        .s_axil_rdata(rdata), .s_axil_rresp(rresp), .s_axil_rvalid(rvalid), .s_axil_rready(rready),
        .s_axis_tdata(tdata), .s_axis_tvalid(tvalid), .s_axis_tlast(tlast), .s_axis_tready(tready)
    );

    task stop(input [511:0] sentence);
        begin
            $display("error: %0s", sentence);
            $finish;
            #1000;
        end
    endtask

    initial begin
        repeat (PATIENCE) @(posedge clk);
        stop("the run did not end");
    end

    // ---- bus: inputs change at the falling edge, a transfer is at the rising one
    task write_word(input [27:0] address, input [31:0] word);
        reg address_taken, word_taken;
        begin
            @(negedge clk);
            {awaddr, wdata} = {address, word};
            {awvalid, wvalid, bready} = 3'b111;
            while (awvalid || wvalid) begin
                #1 {address_taken, word_taken} = {awvalid && awready, wvalid && wready};
                @(negedge clk);
                {awvalid, wvalid} = {awvalid && !address_taken, wvalid && !word_taken};
            end
            while (!bvalid) @(negedge clk);
            if (bresp != 0) stop("the tile refused a write");
            @(negedge clk);
            bready = 0;
        end
    endtask

    reg [31:0] answer;
    task read_word(input [27:0] address);
        reg taken;
        begin
            @(negedge clk);
            araddr = address;
            {arvalid, rready} = 2'b11;
            while (arvalid) begin
                #1 taken = arready;
                @(negedge clk);
                if (taken) arvalid = 0;
            end
            while (!rvalid) @(negedge clk);
            if (rresp != 0) stop("the tile refused a read");
            answer = rdata;
            @(negedge clk);
            rready = 0;
        end
    endtask

    // ---- files: little-endian words
    integer file, next_byte;
    reg [31:0] word;
    reg more;
    task open(input [8*1024-1:0] path);
        begin
            file = $fopen(path, "rb");
            if (file == 0) stop("a file cannot be read");
            next_byte = $fgetc(file);
        end
    endtask
    task next_word;
        begin
            word[7:0] = next_byte;
            word[15:8] = $fgetc(file);
            word[23:16] = $fgetc(file);
            word[31:24] = $fgetc(file);
            next_byte = $fgetc(file);
            more = next_byte != -1;
        end
    endtask

    // The rest of the open file is a packet of the load stream.
    task send_rest;
        reg taken;
        begin
            more = next_byte != -1;
            while (more) begin
                next_word;
                @(negedge clk);
                {tdata, tvalid, tlast} = {word, 1'b1, !more};
                taken = 0;
                while (!taken) begin
                    #1 taken = tready;
                    if (!taken) @(negedge clk);
                end
            end
            @(negedge clk);
            tvalid = 0;
            $fclose(file);
            read_word(`OHM_LOAD_STATUS);
            if (answer & `OHM_LOAD_STATUS_ERROR_MASK) stop("the tile refused a word of a file");
        end
    endtask

    task wait_for_cells;
        begin
            read_word(`OHM_STATUS);
            while (answer & `OHM_STATUS_CELLS_BUSY_MASK) read_word(`OHM_STATUS);
            if (answer & `OHM_STATUS_CELLS_ERROR_MASK) stop("the array did not answer and was given up");
        end
    endtask

    // ---- the image, its checks, the picture, the run
    reg [8*1024-1:0] image, picture;
    reg [31:0] head [0:HEAD_WORDS-1];
    reg [63:0] cycles;
    integer i, patience;
    task start_picture;
        begin
            open(picture);
            send_rest;
            write_word(`OHM_FIRST_LAYER, 0);
            write_word(`OHM_LAYER_COUNT, head[2]);
            write_word(`OHM_IRQ_ENABLE, `OHM_IRQ_ENABLE_DONE_MASK | `OHM_IRQ_ENABLE_ERROR_MASK);
            write_word(`OHM_CONTROL, `OHM_CONTROL_START_MASK);
        end
    endtask

    initial begin
        if (!$value$plusargs("image=%s", image) || !$value$plusargs("picture=%s", picture))
            stop("give +image=FILE and +picture=FILE");
        repeat (4) @(negedge clk);
        rst = 0;
        open(image);
        for (i = 0; i < HEAD_WORDS; i = i + 1) begin
            next_word;
            head[i] = word;
        end
        read_word(`OHM_IDENTITY);
        if (answer != head[0]) stop("the image is for another version of the register map");
        read_word(`OHM_HARDWARE_HASH);
        if (answer != head[1]) stop("the image is for another hardware configuration");
        write_word(`OHM_CONTROL, `OHM_CONTROL_RESTART_CHECKSUM_MASK);
        send_rest;
        wait_for_cells;
        read_word(`OHM_TABLE_CHECKSUM);
        if (answer != head[4]) stop("the tables that arrived are not those of the file");
        write_word(`OHM_CELL_PAIRS, head[5]);
        write_word(`OHM_CONTROL, `OHM_CONTROL_CHECK_CELLS_MASK);
        wait_for_cells;
        read_word(`OHM_CELL_CHECKSUM);
        if (answer != head[6]) stop("the array does not hold the cells that were written");

        start_picture;
        if ($value$plusargs("reset=%d", patience)) begin
            repeat (patience) @(negedge clk);
            read_word(`OHM_STATUS);
            if (!(answer & `OHM_STATUS_BUSY_MASK)) stop("the run ended before its reset");
            rst = 1;
            repeat (2) @(negedge clk);
            rst = 0;
            read_word(`OHM_STATUS);
            if (answer != 0) stop("a reset tile is not idle");
            start_picture;
        end
        while (!irq) @(negedge clk);
        read_word(`OHM_STATUS);
        if (!(answer & `OHM_STATUS_DONE_MASK)) stop("the run ended with an error");
        for (i = 0; i < head[3]; i = i + 1) begin
            read_word(`OHM_LOGITS + 4 * i);
            $display("%0d", $signed(answer));
        end
        read_word(`OHM_CYCLES_HIGH);
        cycles[63:32] = answer;
        read_word(`OHM_CYCLES_LOW);
        cycles[31:0] = answer;
        $display("%0d clocks", cycles);
        $finish;
    end
endmodule
