/* How run_image.c reaches a tile: 0, or the error response of AXI. */
#ifndef BUS_H
#define BUS_H

#include <stdint.h>

int bus_write(uint32_t address, uint32_t word);
int bus_read(uint32_t address, uint32_t *word);
/* Until the interrupt output is 1. */
int bus_wait_for_interrupt(void);

#endif
