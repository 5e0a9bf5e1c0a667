//! Where the API keys come from: a setting, a file, or both. They are reloaded when the file changes.

use std::{fmt, fs, path::PathBuf};

use crate::config::{api_keys::ApiKeys, error::ConfigError};

const KEYS_SETTING: &str = "--api-keys / BLIP_API_KEYS";
const FILE_SETTING: &str = "--api-keys-file";

/// The sources of API keys.
#[derive(Clone, Debug)]
pub struct KeySource {
    /// Keys of the command line or the environment.
    pub(super) keys: Vec<Secret>,
    /// The file of keys, if there is one.
    pub file: Option<PathBuf>,
    /// Requests per second of a key whose line sets no rate.
    pub(super) default_rate: f64,
}

/// A text that is never logged.
#[derive(Clone)]
pub struct Secret(String);

impl KeySource {
    /// Reads all keys.
    ///
    /// # Errors
    /// The file cannot be read or contains no key, or a line is not valid.
    pub fn load(&self) -> Result<ApiKeys, ConfigError> {
        let invalid = |setting, reason: &str| ConfigError::Invalid { setting, reason: reason.to_owned() };
        if self.keys.iter().any(|key| key.0.trim().is_empty() || key.0.contains('\n')) {
            return Err(invalid(KEYS_SETTING, "a key is empty, or two lines"));
        }
        let keys = self.keys.iter().map(|key| key.0.as_str()).collect::<Vec<_>>().join("\n");
        let (setting, text) = match &self.file {
            None => (KEYS_SETTING, keys),
            Some(path) => {
                let file = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
                    setting: FILE_SETTING,
                    path: path.clone(),
                    source,
                })?;
                if file.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#')) {
                    return Err(invalid(FILE_SETTING, "the file holds no key"));
                }
                // The file comes first, so that its line numbers are those of an error.
                (FILE_SETTING, format!("{file}\n{keys}"))
            }
        };
        ApiKeys::parse(text.lines(), self.default_rate).map_err(|reason| ConfigError::Invalid { setting, reason })
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(keys: &[&str], file: Option<&str>) -> Result<ApiKeys, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        if let Some(text) = file {
            fs::write(&path, text).unwrap();
        }
        let keys = keys.iter().map(|key| Secret((*key).to_owned())).collect();
        let source = KeySource { keys, file: file.map(|_| path), default_rate: 0.0 };
        source.load().map_err(|error| error.to_string())
    }

    #[test]
    fn keys_of_the_file_and_of_the_setting_are_valid() {
        let keys = source(&["alpha"], Some("# keys\nbeta\n")).unwrap();
        assert!(keys.find("alpha").is_some() && keys.find("beta").is_some() && keys.find("# keys").is_none());
        assert!(source(&[], None).unwrap().is_empty());
    }

    #[test]
    fn an_error_names_the_setting_and_the_line() {
        for (keys, file, start) in [
            (&["a", " "][..], None, "--api-keys / BLIP_API_KEYS: a key is empty"),
            (&["a\nb"], None, "--api-keys / BLIP_API_KEYS: a key is empty, or two lines"),
            (&["a"], Some("# none\n"), "--api-keys-file: the file holds no key"),
            (&["a"], Some("ok\nse cret"), "--api-keys-file: line 2: white space"),
            (&["a b"], None, "--api-keys / BLIP_API_KEYS: line 1: white space"),
        ] {
            let error = source(keys, file).unwrap_err();
            assert!(error.starts_with(start) && !error.contains("cret"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::from("key".to_string())), "***");
    }
}
