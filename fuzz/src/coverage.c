// Coverage of the C libraries. gcc calls __sanitizer_cov_trace_pc at every branch, which means nothing to libFuzzer; any
// counters in this section do. The linker puts this function in place.

#include <stdint.h>

#define BITS 15

extern char __executable_start;

__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t counters[1 << BITS];

__attribute__((no_sanitize_address, no_sanitize_coverage)) void __wrap___sanitizer_cov_trace_pc(void) {
    // The same in every process, wherever it is loaded.
    uint64_t at = (uint64_t)__builtin_return_address(0) - (uint64_t)&__executable_start;
    counters[at * 0x9e3779b97f4a7c15 >> (64 - BITS)]++;
}
