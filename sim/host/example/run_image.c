/* Loads an image into an OhmLoom tile and runs a picture on it, over any bus.
 *
 *     run_image image.load picture.load
 *
 * Both files come from `python -m sim.host.loading IMAGE_DIR --output DIR`; sim/host/sections.py says what they hold.
 * Prints the scores and the clocks of the run, one a line. Nothing in this file knows how the bus is reached: link it
 * with the three functions of bus.h. Exit status 0, or 1 with a sentence.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "bus.h"
#include "ohmloom.h"

/* Head of an image's file. */
struct head {
    uint32_t identity, hardware_hash, steps, outputs, table_checksum, cell_pairs, cell_checksum, words;
};

#define FIELD(word, name) (((word) & name##_MASK) >> name##_SHIFT)

static void stop(const char *sentence) {
    fprintf(stderr, "error: %s\n", sentence);
    exit(1);
}

static void write_word(uint32_t address, uint32_t word) {
    if (bus_write(address, word)) stop("the tile refused a write");
}

static uint32_t read_word(uint32_t address) {
    uint32_t word;
    if (bus_read(address, &word)) stop("the tile refused a read");
    return word;
}

/* A file as words; *count of them. */
static uint32_t *words_of(const char *path, size_t *count) {
    FILE *file = fopen(path, "rb");
    unsigned char bytes[4];
    size_t room = 0;
    uint32_t *words = NULL;
    if (!file) stop("a file cannot be read");
    for (*count = 0; fread(bytes, 1, 4, file) == 4; ++*count) {
        if (*count == room) {
            room = 2 * room + 1024;
            words = realloc(words, room * sizeof *words);
            if (!words) stop("there is not enough memory");
        }
        words[*count] = bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
    }
    fclose(file);
    return words;
}

/* Wait until the array has programmed or checked its cells. */
static void wait_for_cells(void) {
    uint32_t status;
    do {
        status = read_word(OHM_STATUS);
    } while (FIELD(status, OHM_STATUS_CELLS_BUSY));
    if (FIELD(status, OHM_STATUS_CELLS_ERROR)) stop("the array did not answer and was given up");
}

/* Write sections: an address, a number of words, the words. */
static void load(const uint32_t *words, size_t count) {
    for (size_t at = 0; at < count;) {
        if (count - at < 2 || words[at + 1] > count - at - 2) stop("a file ends inside a section");
        const uint32_t address = words[at], length = words[at + 1];
        const uint32_t step = address < OHM_PROGRAM ? 0 : 4; /* a register takes all words of its section */
        at += 2;
        for (uint32_t i = 0; i < length; i++, at++) {
            if (bus_write(address + step * i, words[at]) == 0) continue;
            /* The array still programs the cells before: nothing was lost. */
            if (address != OHM_CELL_DATA) stop("the tile refused a word of a table");
            wait_for_cells();
            write_word(address, words[at]);
        }
    }
}

static void check_cells(const struct head *head) {
    wait_for_cells();
    write_word(OHM_CELL_PAIRS, head->cell_pairs);
    write_word(OHM_CONTROL, OHM_CONTROL_CHECK_CELLS_MASK);
    wait_for_cells();
    if (read_word(OHM_CELL_CHECKSUM) != head->cell_checksum) stop("the array does not hold the cells that were written");
}

static void run(const struct head *head) {
    write_word(OHM_FIRST_LAYER, 0);
    write_word(OHM_LAYER_COUNT, head->steps);
    write_word(OHM_IRQ_STATUS, OHM_IRQ_STATUS_DONE_MASK | OHM_IRQ_STATUS_ERROR_MASK);
    write_word(OHM_IRQ_ENABLE, OHM_IRQ_ENABLE_DONE_MASK | OHM_IRQ_ENABLE_ERROR_MASK);
    write_word(OHM_CONTROL, OHM_CONTROL_START_MASK);
    if (bus_wait_for_interrupt()) stop("the run did not end");
    const uint32_t status = read_word(OHM_STATUS);
    if (FIELD(status, OHM_STATUS_ERROR)) {
        fprintf(stderr, "error: the tile stopped in step %u with error %u\n", (unsigned)FIELD(status, OHM_STATUS_LAYER),
                (unsigned)FIELD(status, OHM_STATUS_ERROR));
        exit(1);
    }
    if (FIELD(status, OHM_STATUS_OVERFLOW)) stop("a partial sum did not fit");
}

int main(int count, char **arguments) {
    size_t words, picture_words;
    if (count != 3) stop("give the file of an image and that of a picture");
    uint32_t *image = words_of(arguments[1], &words);
    const struct head *head = (const struct head *)image;
    const size_t head_words = sizeof *head / 4;
    if (words < head_words || head->words != words - head_words) stop("the image's file is not whole");
    if (head->identity != OHM_IDENTITY_VALUE) stop("the file is for another version of the register map");
    if (read_word(OHM_IDENTITY) != OHM_IDENTITY_VALUE) stop("there is no OhmLoom tile of this version");
    if (read_word(OHM_HARDWARE_HASH) != head->hardware_hash) stop("the image is for another hardware configuration");
    write_word(OHM_CONTROL, OHM_CONTROL_RESTART_CHECKSUM_MASK);
    load(image + head_words, head->words);
    if (read_word(OHM_TABLE_CHECKSUM) != head->table_checksum) stop("the tables that arrived are not those of the file");
    check_cells(head);

    uint32_t *picture = words_of(arguments[2], &picture_words);
    load(picture, picture_words);
    run(head);
    for (uint32_t i = 0; i < head->outputs; i++) printf("%ld\n", (long)(int32_t)read_word(OHM_LOGITS + 4 * i));
    const uint64_t cycles = read_word(OHM_CYCLES_LOW) | (uint64_t)read_word(OHM_CYCLES_HIGH) << 32;
    printf("%llu clocks\n", (unsigned long long)cycles);
    free(picture);
    free(image);
    return 0;
}
