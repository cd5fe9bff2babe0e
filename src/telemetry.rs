//! Logs (placeholder until the module lands).
/// Logs.
pub fn error(text: &str) {
    eprintln!("error: {text}");
}
/// Logs.
pub fn warn(text: &str) {
    eprintln!("warning: {text}");
}
/// Logs.
pub fn info(text: &str) {
    eprintln!("{text}");
}
