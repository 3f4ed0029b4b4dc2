#include "crew.h"

#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace {

constexpr int kLooks = 32;  // at the ticket before a thread offers its core to others

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Which part of which call is next, in one number that changes at once: 20 bits each for the next part and the number
// of parts, the rest counts the calls. So a thread that looked at an earlier call takes nothing of this one by mistake.
constexpr int kBits = 20;
constexpr uint64_t kMask = (uint64_t(1) << kBits) - 1;

struct Crew {
  alignas(64) std::atomic<uint64_t> ticket{0};
  alignas(64) std::atomic<int64_t> left{0};  // parts of the call that are not finished
  void (*compute)(const void*, int64_t) = nullptr;
  const void* call = nullptr;
  std::atomic_flag busy = ATOMIC_FLAG_INIT;
  alignas(64) std::atomic<int64_t> awake{0};  // helpers that should be: those with a lower number
  int64_t made = 0;
  std::mutex mutex;
  std::condition_variable waking;
};

// Never destroyed: its threads run until the process ends.
Crew& the_crew() {
  static Crew& crew = *new Crew;
  return crew;
}

// Computes parts as long as there are any.
void take_part(Crew& crew) {
  for (uint64_t ticket = crew.ticket.load(std::memory_order_acquire);;) {
    const uint64_t next = ticket & kMask;
    if (next >= (ticket >> kBits & kMask)) return;
    if (!crew.ticket.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    // The call cannot end, and its fields cannot change, before this part is finished.
    crew.compute(crew.call, next);
    crew.left.fetch_sub(1, std::memory_order_release);
    ticket = crew.ticket.load(std::memory_order_acquire);
  }
}

void help(Crew& crew, int64_t number) {
  for (int idle = 0;; ++idle) {
    take_part(crew);
    if (crew.awake.load(std::memory_order_acquire) <= number) {
      std::unique_lock<std::mutex> lock(crew.mutex);
      crew.waking.wait(lock, [&] { return crew.awake.load(std::memory_order_acquire) > number; });
    }
    pause();
    if (idle % kLooks == 0) sched_yield();
  }
}

}  // namespace

namespace crew {

void share(int64_t parts, void (*compute)(const void*, int64_t), const void* call) {
  Crew& crew = the_crew();
  const bool alone = parts <= 1 || parts > int64_t(kMask) || size() == 1;
  if (alone || crew.busy.test_and_set(std::memory_order_acquire)) {
    for (int64_t part = 0; part < parts; ++part) compute(call, part);
    return;
  }
  crew.compute = compute;
  crew.call = call;
  crew.left.store(parts, std::memory_order_relaxed);
  const uint64_t calls = (crew.ticket.load(std::memory_order_relaxed) >> 2 * kBits) + 1;
  crew.ticket.store(calls << 2 * kBits | uint64_t(parts) << kBits, std::memory_order_release);
  take_part(crew);
  for (int idle = 1; crew.left.load(std::memory_order_acquire) > 0; ++idle) {
    pause();
    if (idle % kLooks == 0) sched_yield();
  }
  crew.busy.clear(std::memory_order_release);
}

int64_t size() { return the_crew().awake.load(std::memory_order_relaxed) + 1; }

}  // namespace crew

void wake_helpers(int64_t threads) {
  Crew& crew = the_crew();
  {
    const std::lock_guard<std::mutex> lock(crew.mutex);
    for (; crew.made < threads - 1; ++crew.made) std::thread(help, std::ref(crew), crew.made).detach();
    crew.awake.store(threads - 1, std::memory_order_release);
  }
  crew.waking.notify_all();
}

void rest_helpers() { the_crew().awake.store(0, std::memory_order_release); }
