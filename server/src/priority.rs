//! Priority of threads on this machine's processors.
//!
//! In the loop: training comes first. What serves requests runs behind it: it takes little time and may come some milliseconds
//! later, while a step of training waits for the slowest of its threads.

/// Levels that a lowered thread stands below the process; each is about a fifth less of a processor that both want.
#[cfg(target_os = "linux")]
const LEVELS: i32 = 5;

/// Lowers the calling thread, and with it those that it starts; for good, as raising takes rights that a server need not have.
pub fn lower() {
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "two system calls with numbers alone; no crate that is here has them")]
    // SAFETY: neither call takes or gives memory
    unsafe {
        // 0 is the calling thread, as Linux has it; where it is refused, the thread stays where it is
        let now = libc::getpriority(libc::PRIO_PROCESS, 0);
        libc::setpriority(libc::PRIO_PROCESS, 0, now + LEVELS);
    }
}
