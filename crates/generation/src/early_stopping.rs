//! `early_stopping`, which transformers types as a boolean or the string "never".

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// When beam search stops. It is written as a boolean or the string "never"; the strings "true" and "false" are read too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When the best running beam, scored at its current length, cannot beat the worst finished one.
    #[default]
    False,
    /// As soon as `num_beams` sequences have finished.
    True,
    /// As `False`, but scored at the maximum length when `length_penalty` is above 0: never too early.
    Never,
}

/// The values of [`EarlyStopping`], for error texts.
const EARLY_STOPPING_VALUES: &str = "true, false or \"never\"";

impl From<bool> for EarlyStopping {
    fn from(flag: bool) -> Self {
        if flag { Self::True } else { Self::False }
    }
}

impl FromStr for EarlyStopping {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "true" => Ok(Self::True),
            "false" => Ok(Self::False),
            "never" => Ok(Self::Never),
            other => Err(format!("must be {EARLY_STOPPING_VALUES}, got {other:?}")),
        }
    }
}

impl fmt::Display for EarlyStopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::False => "false",
            Self::True => "true",
            Self::Never => "never",
        })
    }
}

impl Serialize for EarlyStopping {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::False => serializer.serialize_bool(false),
            Self::True => serializer.serialize_bool(true),
            Self::Never => serializer.serialize_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for EarlyStopping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = EarlyStopping;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EARLY_STOPPING_VALUES)
            }

            fn visit_bool<E: de::Error>(self, flag: bool) -> Result<EarlyStopping, E> {
                Ok(flag.into())
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<EarlyStopping, E> {
                word.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boolean_or_a_string_is_read() {
        for (json, value) in [
            ("true", EarlyStopping::True),
            ("\"true\"", EarlyStopping::True),
            ("false", EarlyStopping::False),
            ("\"false\"", EarlyStopping::False),
            ("\"never\"", EarlyStopping::Never),
        ] {
            assert_eq!(serde_json::from_str::<EarlyStopping>(json).unwrap(), value);
            assert_eq!(value.to_string(), json.trim_matches('"'));
        }
        assert_eq!(serde_json::to_string(&EarlyStopping::Never).unwrap(), "\"never\"");
        assert_eq!(serde_json::to_string(&EarlyStopping::True).unwrap(), "true");
    }

    #[test]
    fn an_error_names_the_allowed_values() {
        for json in ["\"always\"", "1", "null"] {
            let error = serde_json::from_str::<EarlyStopping>(json).unwrap_err().to_string();
            assert!(error.contains("true, false or \"never\""), "{json}: {error}");
        }
    }
}
