//! Settings for reading images, the same for `serve` and `caption`.

use clap::Args;

use crate::config::fetch::FetchConfig;

/// Limits of images, and the settings for fetching them.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct ImageConfig {
    /// Maximum size of an image file in bytes
    #[arg(long, env = "BLIP_MAX_IMAGE_BYTES", value_name = "BYTES", default_value_t = 20 << 20)]
    pub max_image_bytes: usize,

    /// Maximum number of pixels (width x height) of an image
    #[arg(long, env = "BLIP_MAX_IMAGE_PIXELS", value_name = "PIXELS", default_value_t = 89_478_485)]
    pub max_image_pixels: u64,

    #[allow(missing_docs, reason = "clap would print it")]
    #[command(flatten)]
    pub fetch: FetchConfig,
}

#[cfg(test)]
impl ImageConfig {
    /// The settings of a command line with these flags.
    pub(crate) fn from_flags(flags: &[&str]) -> Self {
        use clap::{Command, FromArgMatches};
        let command = Self::augment_args(Command::new("test").no_binary_name(true));
        Self::from_arg_matches(&command.get_matches_from(flags)).unwrap()
    }
}
