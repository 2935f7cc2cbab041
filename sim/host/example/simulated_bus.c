/* The bus of run_image.c to a simulated tile: the shared library that sim/backends/compiled.py makes (harness.cpp).
 *
 * On a system on chip bus_write is a store to the tile's address, bus_read a load, and bus_wait_for_interrupt waits for
 * the interrupt.
 */
#include "bus.h"

typedef struct simulation simulation;
simulation *sim_new(void);
void sim_reset(simulation *);
int sim_write_many(simulation *, const uint32_t *addresses, const uint32_t *words, uint64_t count, uint64_t *done);
int sim_read_many(simulation *, const uint32_t *addresses, uint32_t *words, uint64_t count, uint64_t *done);
int sim_interrupt(simulation *, uint64_t limit);

static simulation *tile(void) {
    static simulation *made;
    if (!made) {
        made = sim_new();
        sim_reset(made);
    }
    return made;
}

int bus_write(uint32_t address, uint32_t word) {
    uint64_t done;
    return sim_write_many(tile(), &address, &word, 1, &done);
}

int bus_read(uint32_t address, uint32_t *word) {
    uint64_t done;
    return sim_read_many(tile(), &address, word, 1, &done);
}

int bus_wait_for_interrupt(void) { return sim_interrupt(tile(), UINT64_C(1) << 40); }
