"""Words of the report, one sentence each."""

#: (word, meaning), in the order in which a reader meets them.
WORDS = (
    ("ReRAM cell", "A resistor that keeps a value without power; here it is on or off, one bit."),
    (
        "Crossbar",
        "A grid of cells: word lines put inputs on its rows, and the bit line of a column collects the current of all "
        "its cells that are on and have input 1, which is a multiplication and an addition inside the memory.",
    ),
    ("Crossbar pair", "Two crossbars for the same weights: one holds the positive ones, the other the negative ones."),
    (
        "Operation unit (OU)",
        "The few rows and columns of a crossbar that are switched on at once, because the current of more could not be "
        "told apart.",
    ),
    ("OU activation", "One OU switched on for one bit of its inputs."),
    ("Window", "The inputs of one output position: a patch of the picture for a convolution."),
    ("Segment", "As many neighbouring inputs of a window as an OU has rows."),
    ("Block", "The weights of one segment and of as many outputs as an OU has columns."),
    ("Bit plane", "One binary digit of all weights of a block; it takes one OU."),
    ("Block width", "How many bit planes a block stores; training lowers it where accuracy allows (BWQ)."),
    ("Pruned", "A block of width 0: all its weights are zero and it takes no place and no work."),
    ("Magnitude bits", "Bits of a weight without its sign, which follows from the crossbar that holds it."),
    ("Streaming", "Activations enter bit by bit: one bit of all inputs of a segment at a time."),
    ("Zero slice", "One bit of a segment that is 0 in all its inputs, so the OU need not be switched on."),
    ("Count", "How many cells of a bit line are on with input 1: what the A/D converter has to find out."),
    ("A/D operation", "One comparison of a converter; a uniform conversion takes one for every bit."),
    ("A/D lane", "One converter with the adder behind it; an OU needs one for each of its bit lines."),
    (
        "Twin-range conversion (TRQ)",
        "A converter that first looks in a small range where most counts are, and searches the whole range otherwise.",
    ),
    (
        "Dynamic precision (ReDy)",
        "A unit that looks at a group of activations and leaves out bits that are zero, or that matter little.",
    ),
    ("Shift-and-add", "Multiplies each converted count by the weight of its bits and sums all of them up."),
    ("Lossless, exact", "Gives the same integer as the plain computation, for every input."),
    (
        "Pair machine",
        "Ours: word lines that are on are gathered into full OUs, and the two bit lines of a column are subtracted in "
        "front of one converter.",
    ),
    ("Golden model", "A description of the machine in plain integers of NumPy, written apart from the hardware."),
    ("Step", "One descriptor of the program that the hardware runs by itself, such as a layer or a pooling."),
    ("Macro, tile", "Crossbars that share converters; macros with an activation memory and a sequencer."),
    ("Multiply-accumulate (MAC)", "A multiplication with a weight and an addition: two operations."),
    (
        "TOPS, TOPS/W",
        "10¹² operations a second, and that for every watt, which is the same as operations a picojoule; all of the "
        "network count, those too that the machine skips.",
    ),
    ("ISAAC, SRE", "Published accelerators (ISCA 2016 and 2019) whose principles the baseline and a rival follow."),
)
