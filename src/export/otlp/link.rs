//! What is said about the way to the receiver: each change of state is one line of the log.

use tokio::time::Instant;

use crate::config::Temporality;
use crate::telemetry::{Level, Log};

/// State of the way to one receiver.
pub struct Link {
    receiver: String,
    nothing_lost: &'static str,
    log: Log,
    state: State,
    /// The last message of a partial success.
    told: String,
}

enum State {
    Up,
    Down { since: Instant },
    Refused { error: String },
}

impl Link {
    /// A link that is up until it is not.
    #[must_use]
    pub fn new(receiver: &str, temporality: Temporality, log: Log) -> Self {
        let nothing_lost = match temporality {
            Temporality::Cumulative => "totals are complete",
            Temporality::Delta | Temporality::LowMemory => "increments are complete",
        };
        Self { receiver: receiver.to_owned(), nothing_lost, log, state: State::Up, told: String::new() }
    }

    /// The receiver took a request, but for `rejected` points.
    pub fn delivered(&mut self, rejected: u64, message: &str) {
        let receiver = &self.receiver;
        match std::mem::replace(&mut self.state, State::Up) {
            State::Up => {}
            State::Down { since } => {
                let seconds = since.elapsed().as_secs();
                let complete = self.nothing_lost;
                (self.log)(Level::Info, &format!("{receiver} is back after {seconds} s; {complete}"));
            }
            State::Refused { .. } => (self.log)(Level::Info, &format!("{receiver} takes the metrics again")),
        }
        if (rejected > 0 || !message.is_empty()) && self.told != message {
            let text = if rejected > 0 {
                format!("{receiver} rejected {rejected} data points: {message}")
            } else {
                format!("{receiver} took the metrics with a warning: {message}")
            };
            (self.log)(Level::Warn, &text);
            message.clone_into(&mut self.told);
        }
    }

    /// A request failed and is tried again. `reached`: the receiver answered.
    pub fn failed(&mut self, reached: bool, error: &str) {
        if matches!(self.state, State::Down { .. }) {
            return;
        }
        let verb = if reached { "deliver to" } else { "reach" };
        let text = format!("cannot {verb} {}, keeps measuring and retries: {error}", self.receiver);
        (self.log)(Level::Warn, &text);
        self.state = State::Down { since: Instant::now() };
    }

    /// A request with `points` was given up.
    pub fn refused(&mut self, points: u64, error: &str) {
        if matches!(&self.state, State::Refused { error: known } if known == error) {
            return;
        }
        let receiver = &self.receiver;
        (self.log)(Level::Warn, &format!("{receiver} refuses the metrics, {points} data points dropped: {error}"));
        self.state = State::Refused { error: error.to_owned() };
    }

    /// Whether the last request failed and is to be tried again.
    #[must_use]
    pub const fn is_down(&self) -> bool {
        matches!(self.state, State::Down { .. })
    }

    /// The last push did not get through.
    pub fn lost(&mut self, points: u64) {
        let text = format!("{} did not take the last {points} data points", self.receiver);
        (self.log)(Level::Warn, &text);
    }
}
