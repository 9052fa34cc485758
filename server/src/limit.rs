//! Rate limits: one token bucket a client. The arithmetic takes the time as an argument, so it is tested without a clock.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Clients remembered at a time.
const MAX_CLIENTS: usize = 10_000;

/// How much a client may ask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Requests a second in the long run.
    pub per_sec: f64,
    /// Requests at once.
    pub burst: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at_secs: f64,
}

impl Bucket {
    fn tokens_at(&self, rate: Rate, now_secs: f64) -> f64 {
        // a clock that went back fills nothing
        (self.tokens + (now_secs - self.at_secs).max(0.0) * rate.per_sec).min(rate.burst)
    }
}

/// Buckets of all clients.
#[derive(Debug)]
pub struct Buckets {
    rate: Rate,
    buckets: HashMap<String, Bucket>,
    max_clients: usize,
}

impl Buckets {
    /// Empty; a client that is not known has a full bucket.
    pub fn new(rate: Rate, max_clients: usize) -> Self {
        Self { rate, buckets: HashMap::new(), max_clients }
    }

    /// Takes one request out of a client's bucket at `now_secs`.
    ///
    /// # Errors
    /// How long to wait until there is one.
    pub fn take(&mut self, client: &str, now_secs: f64) -> Result<(), Duration> {
        let rate = self.rate;
        if !self.buckets.contains_key(client) && self.buckets.len() >= self.max_clients {
            self.make_room(now_secs);
        }
        let full = Bucket { tokens: rate.burst, at_secs: now_secs };
        let bucket = self.buckets.entry(client.to_owned()).or_insert(full);
        let tokens = bucket.tokens_at(rate, now_secs);
        *bucket = Bucket { tokens, at_secs: now_secs };
        if tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - tokens) / rate.per_sec))
    }

    /// Forgets clients whose bucket is full again, for whom that changes nothing; where there is none, the fullest.
    fn make_room(&mut self, now_secs: f64) {
        let rate = self.rate;
        self.buckets.retain(|_, bucket| bucket.tokens_at(rate, now_secs) < rate.burst);
        if self.buckets.len() >= self.max_clients {
            let fullest = self.buckets.iter().max_by(|a, b| a.1.tokens.total_cmp(&b.1.tokens));
            if let Some(client) = fullest.map(|(client, _)| client.clone()) {
                self.buckets.remove(&client);
            }
        }
    }
}

/// [`Buckets`] with a clock, for many threads.
#[derive(Debug)]
pub struct Limiter {
    begun: Instant,
    buckets: Mutex<Buckets>,
}

impl Limiter {
    /// For at most 10,000 clients.
    pub fn new(rate: Rate) -> Self {
        Self { begun: Instant::now(), buckets: Mutex::new(Buckets::new(rate, MAX_CLIENTS)) }
    }

    /// As [`Buckets::take`], now.
    ///
    /// # Errors
    /// How long to wait.
    pub fn take(&self, client: &str) -> Result<(), Duration> {
        let now_secs = self.begun.elapsed().as_secs_f64();
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).take(client, now_secs)
    }
}

#[cfg(test)]
mod tests;
