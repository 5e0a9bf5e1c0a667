//! Errors of the `tiff` crate in the words of this one.

use tiff::TiffError;

use crate::error::DecodeError;

pub(super) const DAMAGED: DecodeError = DecodeError::Damaged("TIFF");
pub(super) const TRUNCATED: DecodeError = DecodeError::Truncated("TIFF");

impl From<TiffError> for DecodeError {
    fn from(error: TiffError) -> Self {
        match error {
            TiffError::IoError(_) => TRUNCATED,
            TiffError::UnsupportedError(_) => Self::Unsupported("TIFF of this kind"),
            _ => DAMAGED,
        }
    }
}
