//! `blip-serve pixels`: writes the model's input for an image, to compare it with another preprocessing.

use std::{fs, path::PathBuf, process::ExitCode};

use clap::Args;

use crate::cli::{command::CommandError, select};
use crate::registry::preprocess_config;
use image_processor::{self, DecodeLimits, PixelValues};

/// Write the model's input for an image: `pixel_values`, float32 `[1, 3, H, W]`, as .npy.
#[derive(Debug, Args)]
#[allow(clippy::struct_field_names, reason = "the flag has the server's name")]
pub(super) struct Pixels {
    /// Image file
    image: PathBuf,

    /// File to write
    #[arg(long, value_name = "FILE.npy")]
    output: PathBuf,

    /// Name of a model, or folder of a bundle; defaults to the catalogue's default
    #[arg(long)]
    model: Option<String>,

    /// Catalogue of models
    #[arg(long, env = "BLIP_MODELS", default_value = "models.toml")]
    models: PathBuf,

    /// Maximum number of pixels (width x height) of an image
    #[arg(long, env = "BLIP_MAX_IMAGE_PIXELS", default_value_t = 89_478_485)]
    max_image_pixels: u64,
}

impl Pixels {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let entry = select::model(&self.models, self.model.as_deref())?;
        let config = preprocess_config(&entry.path)?;
        let bytes = fs::read(&self.image).map_err(|error| format!("{}: {error}", self.image.display()))?;
        let limits = DecodeLimits { max_pixels: self.max_image_pixels };
        let rgb = image_processor::decode(&bytes, &limits, config.alpha())
            .map_err(|error| format!("{}: {error}", self.image.display()))?;
        let npy = to_npy(&image_processor::preprocess(&rgb, &config));
        fs::write(&self.output, npy).map_err(|error| format!("{}: {error}", self.output.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The NPY format, version 1.0: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
fn to_npy(pixel_values: &PixelValues) -> Vec<u8> {
    let values = pixel_values.view();
    let (channels, height, width) = values.dim();
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': (1, {channels}, {height}, {width}), }}");
    // Magic, version and length take 10 bytes; the data begin at a multiple of 64, after a newline.
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut npy = Vec::with_capacity(10 + header.len() + values.len() * 4);
    npy.extend_from_slice(b"\x93NUMPY\x01\x00");
    npy.extend_from_slice(&(header.len() as u16).to_le_bytes());
    npy.extend_from_slice(header.as_bytes());
    npy.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    npy
}
