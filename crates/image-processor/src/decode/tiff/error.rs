//! From errors of the `tiff` crate to [`DecodeError`].

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
