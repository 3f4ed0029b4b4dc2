// A call that a test can watch: each part adds its number, and says which thread computed it.

#include <atomic>
#include <cstdint>
#include <thread>

#include "crew.h"

extern "C" int64_t sum_of_parts(int64_t parts, int64_t turns) {
  std::atomic<int64_t> total{0};
  crew::share(parts, [&](int64_t part) {
    for (volatile int64_t i = 0; i < turns; ++i) {
    }
    total += part;
  });
  return total;
}

// Part 0 waits until another part runs: only a second thread ends this.
extern "C" void meet() {
  std::atomic<int> arrived{0};
  crew::share(2, [&](int64_t) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
  });
}
