//! What can go wrong with a request, and how the user is told.

use crate::error::Error;
use std::path::Path;

/// Why a request gave no bytes.
#[derive(Clone, Debug)]
pub enum Failure {
    /// There is no such object.
    Absent,
    /// The server lets nobody with these credentials in.
    Denied(String),
    /// The object is no longer the one that was opened.
    Changed { expected: String, got: String },
    /// The server answers with whole objects only.
    NoRanges,
    /// The server says too little of the object.
    Unusable(String),
    /// All else, after all retries.
    Failed(String),
}

/// As much of an answer as is worth showing.
const SHOWN_CHARS: usize = 400;

impl Failure {
    /// Of a request that failed, retries included.
    pub fn of(error: &object_store::Error) -> Self {
        use object_store::Error as E;
        let text = one_line(&error.to_string());
        match error {
            E::NotFound { .. } => Self::Absent,
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Self::Denied(text),
            // The address that machines of Amazon and Google ask for credentials.
            _ if text.contains("169.254.169.254") || text.contains("metadata.google.internal") => Self::Denied(text),
            E::Precondition { .. } => Self::Changed { expected: String::new(), got: String::new() },
            E::NotSupported { .. } => Self::NoRanges,
            _ if text.contains("non-partial response") => Self::NoRanges,
            _ => Self::Failed(text),
        }
    }

    /// The error for the user.
    pub fn error(self, url: &Path) -> Error {
        let missing = |problem: String| Error::InputMissing { path: url.to_owned(), problem };
        match self {
            Self::Absent => missing("no such object on the server".into()),
            Self::Denied(why) => missing(format!("access denied; {}. The server said: {why}", credentials(url))),
            Self::Changed { expected, got } => {
                Error::InputChanged { path: url.to_owned(), what: format!("expected {expected}, got {got}") }
            }
            Self::NoRanges => {
                missing("the server does not answer range requests; fetch the model first, and name the copy".into())
            }
            Self::Unusable(problem) => missing(format!("{problem}; fetch the model first, and name the copy")),
            Self::Failed(cause) => Error::io(url, "read over the network")(std::io::Error::other(cause)),
        }
    }
}

/// What credentials such a URL is read with.
fn credentials(url: &Path) -> &'static str {
    let url = url.to_string_lossy();
    if url.starts_with("s3:") {
        "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or AWS_SKIP_SIGNATURE=true for what is public. S3 \
         says so of missing objects too, where s3:ListBucket is not allowed"
    } else if url.starts_with("gs:") {
        "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or GOOGLE_SKIP_SIGNATURE=true for what is public"
    } else if url.starts_with("https://huggingface.co/") {
        "set HF_TOKEN to a token that may read the repository"
    } else {
        "only what is public can be read from this host"
    }
}

fn one_line(text: &str) -> String {
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((at, _)) = line.char_indices().nth(SHOWN_CHARS) {
        line.truncate(at);
        line.push_str(" ...");
    }
    line.retain(|c| !c.is_control());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_shown_on_one_line_and_not_whole() {
        let shown = one_line(&format!("a\n\x1b[31m {}", "é".repeat(1000)));
        assert!(shown.starts_with("a [31m é") && shown.ends_with(" ...") && shown.chars().count() < 410, "{shown}");
    }
}
