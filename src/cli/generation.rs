//! Flags of generation parameters that take an optional value.

use std::ffi::OsString;

/// `--do-sample` and `--early-stopping` work bare and with a value behind `=` or a space: `--do-sample picture.png` must
/// not take the picture for a value, and `--early-stopping never picture.png` must not take the value for a picture.
pub(super) fn with_explicit_values(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut result: Vec<OsString> = Vec::new();
    for argument in arguments {
        let optional = |flag: &OsString| flag == "--do-sample" || flag == "--early-stopping";
        let is_value = argument == "true" || argument == "false" || argument == "never";
        match result.last_mut().filter(|flag| is_value && optional(flag)) {
            Some(flag) => {
                flag.push("=");
                flag.push(argument);
            }
            None => result.push(argument),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_values_take_only_their_own_words() {
        let explicit = |line: &str| {
            let words = with_explicit_values(line.split(' ').map(OsString::from));
            words.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(explicit("caption --do-sample a.png"), "caption --do-sample a.png");
        assert_eq!(explicit("caption --do-sample false a.png"), "caption --do-sample=false a.png");
        assert_eq!(explicit("caption --early-stopping never a.png"), "caption --early-stopping=never a.png");
        assert_eq!(explicit("caption true --do-sample"), "caption true --do-sample");
    }
}
