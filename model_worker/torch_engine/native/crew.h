// Threads that share the work of one call, and that stay awake from one call to the next while a step is computed.
//
// OpenMP's threads are a team: a call waits until each of them has arrived, and what arrives late, because another
// process has its core, holds everybody up. Here whoever is there takes the next part. A thread without work spins,
// which is a hundred times faster than being woken, but lets others have its core; after a while, and between steps, it
// sleeps.

#pragma once

#include <cstdint>
#include <type_traits>

namespace crew {

// Computes the parts [0, parts) of a call, in any order: here, and in whatever helpers are awake and not with another
// caller. `compute` throws nothing.
void share(int64_t parts, void (*compute)(const void* call, int64_t part), const void* call);

template <typename Compute> void share(int64_t parts, const Compute& compute) {
  share(parts, [](const void* call, int64_t part) { (*static_cast<const Compute*>(call))(part); }, &compute);
}

// How many threads take part: 1 between steps.
int64_t size();

}  // namespace crew

extern "C" {

// From here on `threads` - 1 helpers take part, and sleep only while there is nothing to do, until they may rest.
void wake_helpers(int64_t threads);
void rest_helpers();
}
