//! One image of the command line.

use std::ffi::OsString;

use url::Url;

/// One image to caption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    /// Name as given, or as found in a folder; it is printed with the result.
    pub(super) name: OsString,
    /// Where the image is.
    pub(super) location: Location,
}

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// An http or https URL.
    Url(Url),
    /// The name is a `data:` URL.
    DataUrl,
    /// The name is a path.
    File,
    /// Standard input.
    StandardInput,
    /// The image cannot be read; the text is the reason.
    Unreadable(String),
}

impl Input {
    pub(super) fn file(path: impl Into<OsString>) -> Self {
        Self { name: path.into(), location: Location::File }
    }

    pub(super) fn unreadable(name: impl Into<OsString>, reason: impl Into<String>) -> Self {
        Self { name: name.into(), location: Location::Unreadable(reason.into()) }
    }
}
