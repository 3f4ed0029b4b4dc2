#include "crew.h"

#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace {

constexpr int kLooks = 32;  // at the ticket before a thread offers its core to others
// A helper that finds nothing to do for so long sleeps: longer than what is between two calls of ours, and shorter than
// a product of torch's, whose own threads want the core.
constexpr std::chrono::microseconds kIdle{100};

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
  alignas(64) std::atomic<int64_t> wanted{0};  // helpers: those with a lower number
  std::atomic<int64_t> asleep{0};
  int64_t made = 0;
  uint64_t wakings = 0;  // behind the mutex
  std::mutex mutex;
  std::condition_variable waking;
};

// Never destroyed: its threads run until the process ends.
Crew& the_crew() {
  static Crew& crew = *new Crew;
  return crew;
}

inline bool has_part(uint64_t ticket) { return (ticket & kMask) < (ticket >> kBits & kMask); }

// Computes parts as long as there are any. Whether there were.
bool take_part(Crew& crew) {
  bool found = false;
  for (uint64_t ticket = crew.ticket.load(std::memory_order_acquire);;) {
    const uint64_t next = ticket & kMask;
    if (!has_part(ticket)) return found;
    if (!crew.ticket.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    // The call cannot end, and its fields cannot change, before this part is finished.
    crew.compute(crew.call, next);
    crew.left.fetch_sub(1, std::memory_order_release);
    found = true;
    ticket = crew.ticket.load(std::memory_order_acquire);
  }
}

// Until the next step begins, or a call has parts. Who shares a call stores its ticket and then looks at `asleep`, here
// it is the other way round, all in one order: one of both sees the other.
void sleep(Crew& crew, int64_t number) {
  std::unique_lock<std::mutex> lock(crew.mutex);
  const uint64_t wakings = crew.wakings;
  crew.asleep.fetch_add(1, std::memory_order_seq_cst);
  crew.waking.wait(lock, [&] {
    return crew.wanted.load(std::memory_order_relaxed) > number &&
           (crew.wakings != wakings || has_part(crew.ticket.load(std::memory_order_seq_cst)));
  });
  crew.asleep.fetch_sub(1, std::memory_order_relaxed);
}

void help(Crew& crew, int64_t number) {
  typedef std::chrono::steady_clock clock;
  auto idle_from = clock::now();
  for (unsigned look = 0;; ++look) {
    if (take_part(crew)) idle_from = clock::now();
    if (look % kLooks == 0) {
      if (crew.wanted.load(std::memory_order_relaxed) <= number || clock::now() - idle_from > kIdle) {
        sleep(crew, number);
        idle_from = clock::now();
      }
      sched_yield();
    }
    pause();
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
  crew.ticket.store(calls << 2 * kBits | uint64_t(parts) << kBits, std::memory_order_seq_cst);
  if (crew.asleep.load(std::memory_order_seq_cst) > 0) {
    { const std::lock_guard<std::mutex> lock(crew.mutex); }
    crew.waking.notify_all();
  }
  take_part(crew);
  for (int idle = 1; crew.left.load(std::memory_order_acquire) > 0; ++idle) {
    pause();
    if (idle % kLooks == 0) sched_yield();
  }
  crew.busy.clear(std::memory_order_release);
}

int64_t size() { return the_crew().wanted.load(std::memory_order_relaxed) + 1; }

}  // namespace crew

void wake_helpers(int64_t threads) {
  Crew& crew = the_crew();
  {
    const std::lock_guard<std::mutex> lock(crew.mutex);
    for (; crew.made < threads - 1; ++crew.made) std::thread(help, std::ref(crew), crew.made).detach();
    crew.wanted.store(threads - 1, std::memory_order_release);
    ++crew.wakings;
  }
  crew.waking.notify_all();
}

void rest_helpers() { the_crew().wanted.store(0, std::memory_order_release); }
