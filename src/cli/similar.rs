//! "Did you mean": the name that a mistyped one most likely meant.

/// Below this two names have little in common.
const ALIKE: f64 = 0.85;

/// The candidate nearest to `name`, if one is near.
pub(super) fn nearest(name: &str, candidates: impl IntoIterator<Item = String>) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, &candidate), candidate))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_near_and_another_word_is_not() {
        let nearest = |name| nearest(name, ["scenes", "blip-large"].map(String::from));
        assert_eq!(nearest("sceens").as_deref(), Some("scenes"));
        assert_eq!(nearest("blip_large").as_deref(), Some("blip-large"));
        assert_eq!(nearest("photos"), None);
    }
}
