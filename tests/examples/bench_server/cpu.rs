//! Processor time of the server's threads and of this process, from `/proc`.

use std::path::Path;

/// The kernel's unit in `/proc`, on every Linux.
const TICKS_PER_SEC: f64 = 100.0;

/// Processor seconds, or cores where divided by time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// Threads that train.
    pub training: f64,
    /// The server's other threads.
    pub serving: f64,
    /// This process.
    pub client: f64,
}

impl Cpu {
    /// Since each process began; `pid` is the server's.
    pub fn now(pid: u32) -> Self {
        let mut cpu =
            Self { client: of(Path::new("/proc/self/stat")).map_or(f64::NAN, |(_, secs)| secs), ..Self::default() };
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let Some((name, secs)) = of(&task.path().join("stat")) else { continue };
            // Rayon's threads have the name of the one that began them
            if name.starts_with("trainer") || name.starts_with("rayon") {
                cpu.training += secs
            } else {
                cpu.serving += secs
            }
        }
        cpu
    }

    /// A second's share of what came since `before`.
    pub fn since(self, before: Self, secs: f64) -> Self {
        Self {
            training: (self.training - before.training) / secs,
            serving: (self.serving - before.serving) / secs,
            client: (self.client - before.client) / secs,
        }
    }
}

/// Name, and seconds in user and system mode.
fn of(stat: &Path) -> Option<(String, f64)> {
    let text = std::fs::read_to_string(stat).ok()?;
    let (name, rest) = text.split_once('(')?.1.rsplit_once(") ")?;
    let ticks = rest.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<f64>().ok()).sum::<Option<f64>>()?;
    Some((name.to_owned(), ticks / TICKS_PER_SEC))
}
