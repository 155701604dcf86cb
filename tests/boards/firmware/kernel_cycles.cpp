// Cycles of the dense kernels, counted between marks. Layer sizes come from macros.
#include <avr/io.h>
#include <avr/sleep.h>
#include <avr/interrupt.h>

#include "maille/kernels.h"
#include "maille/kernels_plain.h"

using namespace maille;
using namespace maille::tiny;

#ifndef INPUTS
#define INPUTS 64
#endif
#ifndef OUTPUTS
#define OUTPUTS 32
#endif

#include "data.h"

uint8_t x[INPUTS];
uint8_t tuned[OUTPUTS], plain[OUTPUTS], wide[OUTPUTS], ram[OUTPUTS];

int main() {
    for (uint16_t i = 0; i < INPUTS; i++) {
        x[i] = static_cast<uint8_t>(i * 37 + 11);
    }
    DenseJob job = {weights, channels, x, tuned, INPUTS, OUTPUTS, 0, 3, 0, 255};
    DenseJob second = job;
    second.y = plain;
    DenseJob third = job;
    third.y = wide;
    GPIOR0 = 1;
    dense(job, Memory::FLASH, false);
    GPIOR0 = 2;
    dense_plain<FlashReader>(second);
    GPIOR0 = 3;
    dense(third, Memory::FLASH, true);
    GPIOR0 = 4;
    cli();
    sleep_enable();
    sleep_cpu();
}
