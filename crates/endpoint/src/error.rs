//! What can go wrong with a server.

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url}: {trouble}{}", again(*attempts))]
pub struct EndpointError {
    /// Address asked.
    pub url: String,
    /// Times it was asked.
    pub attempts: usize,
    /// What the last time led to.
    pub trouble: Trouble,
}

fn again(attempts: usize) -> String {
    if attempts > 1 { format!(" (asked {attempts} times)") } else { String::new() }
}

/// What a server did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Trouble {
    /// No connection.
    #[error("no connection: {0}")]
    Down(String),
    /// It took longer than allowed.
    #[error("no answer in time: {0}")]
    Slow(String),
    /// Too many requests, also after waiting as it asked.
    #[error("rate-limited (status 429): {0}")]
    RateLimited(String),
    /// A status that is no success.
    #[error("status {status}: {message}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// A reply that is none: no JSON, or a field missing.
    #[error("{0}")]
    Malformed(String),
    /// The stream ended before the reply did.
    #[error("the stream broke off: {0}")]
    CutShort(String),
    /// The caller did not want it any more.
    #[error("cancelled")]
    Cancelled,
}

impl Trouble {
    /// Whether asking again may help.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Trouble::Down(_) | Trouble::RateLimited(_) => true,
            Trouble::Status { status, .. } => matches!(status, 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// The trouble behind a transport error.
    pub(crate) fn of(error: &ureq::Error) -> Self {
        match error {
            ureq::Error::Timeout(_) => Trouble::Slow(error.to_string()),
            ureq::Error::BodyExceedsLimit(_) => Trouble::Malformed(format!("the reply is too long: {error}")),
            ureq::Error::Protocol(_) => Trouble::CutShort(error.to_string()),
            _ => Trouble::Down(error.to_string()),
        }
    }

    /// The trouble behind a failed read of a body.
    pub(crate) fn of_read(error: &std::io::Error) -> Self {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<ureq::Error>());
        if error.kind() == std::io::ErrorKind::TimedOut || matches!(inner, Some(ureq::Error::Timeout(_))) {
            return Trouble::Slow(error.to_string());
        }
        match error.kind() {
            std::io::ErrorKind::InvalidData => Trouble::Malformed(error.to_string()),
            _ => Trouble::CutShort(error.to_string()),
        }
    }
}
