//! From RGB pixels to `pixel_values`, as the Pillow backend of transformers' image processors computes them.
//!
//! An image is resized in 8 bits, then rescaled and normalised. The last two depend on channel and sample only, so they
//! are a table of 3 x 256 floats, computed with numpy's steps and types: equal to the last bit.

use ndarray::{Array3, ArrayView3, Axis};
use serde::Deserialize;

use crate::options::AlphaPolicy;
use crate::resample::{Filter, ResizeOrder, Target, resize};
use crate::rgb_image::RgbImage;

/// How a model's images are preprocessed, as in its manifest; not yet checked.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct PreprocessFields {
    /// Rows of the result.
    pub height: u32,
    /// Columns of the result.
    pub width: u32,
    /// Kernel of the resize.
    pub resample: Filter,
    /// Which of the two passes of the resize comes first.
    pub resize_order: ResizeOrder,
    /// What becomes of transparent pixels when a file is decoded.
    pub alpha: AlphaPolicy,
    /// Whether samples are multiplied with `rescale_factor`.
    pub do_rescale: bool,
    /// Usually 1/255.
    pub rescale_factor: f64,
    /// Whether `image_mean` is subtracted and the result divided by `image_std`.
    pub do_normalize: bool,
    /// Red, green, blue.
    pub image_mean: [f64; 3],
    /// Red, green, blue.
    pub image_std: [f64; 3],
}

/// Checked preprocessing settings of one model.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "PreprocessFields")]
pub struct PreprocessConfig(PreprocessFields);

/// One preprocessed image, the `pixel_values` of a model: `[3, height, width]`, the planes of red, green and blue.
#[derive(Clone, Debug, PartialEq)]
pub struct PixelValues(Array3<f32>);

impl PixelValues {
    /// Takes planes as they are, in standard (row-major) layout: `[3, height, width]`.
    pub fn new(planes: Array3<f32>) -> Self {
        Self(planes)
    }

    /// All values 0: an image of one colour, for a model's self-test.
    pub fn zeros(config: &PreprocessConfig) -> Self {
        let (height, width) = config.size();
        Self(Array3::zeros((3, height, width)))
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.0.dim().1
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.0.dim().2
    }

    /// The values, `[3, height, width]`.
    pub fn view(&self) -> ArrayView3<'_, f32> {
        self.0.view()
    }

    /// The values as an owned array, `[3, height, width]`.
    pub fn into_array(self) -> Array3<f32> {
        self.0
    }
}

impl TryFrom<PreprocessFields> for PreprocessConfig {
    type Error = &'static str;

    fn try_from(fields: PreprocessFields) -> Result<Self, Self::Error> {
        Self::new(fields)
    }
}

impl PreprocessConfig {
    /// Largest height and width.
    pub const MAX_SIDE: u32 = 8192;

    /// Checks the fields; the error names the field that is out of range.
    pub fn new(fields: PreprocessFields) -> Result<Self, &'static str> {
        let is_side = |side| (1..=Self::MAX_SIDE).contains(&side);
        if !is_side(fields.height) || !is_side(fields.width) {
            return Err("height and width must lie between 1 and 8192");
        }
        if fields.do_rescale && !fields.rescale_factor.is_finite() {
            return Err("rescale_factor must be finite");
        }
        if fields.do_normalize && !fields.image_mean.iter().all(|mean| mean.is_finite()) {
            return Err("image_mean must be finite");
        }
        // The division is in f32, so the divisor must not be zero as f32.
        let divides = |std: &f64| std.is_finite() && *std as f32 != 0.0;
        if fields.do_normalize && !fields.image_std.iter().all(divides) {
            return Err("image_std must be finite and not 0");
        }
        let config = Self(fields);
        // A value that is finite as f64 may be infinite as f32, the type of the model's input.
        let is_finite = |channel| config.table(channel).iter().all(|value| value.is_finite());
        if (0..3).all(is_finite) {
            Ok(config)
        } else {
            Err("rescale_factor, image_mean and image_std must give finite values as f32")
        }
    }

    /// What becomes of transparent pixels, for [`decode`](crate::decode()).
    pub fn alpha(&self) -> AlphaPolicy {
        self.0.alpha
    }

    /// Height and width of every [`PixelValues`] made with these settings.
    pub fn size(&self) -> (usize, usize) {
        (self.0.height as usize, self.0.width as usize)
    }

    /// The value of each sample of one channel, with numpy's types: the product in f64, all else in f32.
    fn table(&self, channel: usize) -> [f32; 256] {
        let fields = &self.0;
        let (mean, std) = (fields.image_mean[channel] as f32, fields.image_std[channel] as f32);
        std::array::from_fn(|sample| {
            let sample = sample as f64;
            let value = if fields.do_rescale { sample * fields.rescale_factor } else { sample } as f32;
            if fields.do_normalize { (value - mean) / std } else { value }
        })
    }
}

/// Resizes the image to the model's size, whatever its aspect ratio, and normalises it.
pub fn preprocess(image: &RgbImage, config: &PreprocessConfig) -> PixelValues {
    let fields = &config.0;
    let (height, width) = config.size();
    let tables: [_; 3] = std::array::from_fn(|channel| config.table(channel));
    let mut values = Array3::zeros((3, height, width));
    let mut rows = values.axis_iter_mut(Axis(1)); // [3, width] each
    let target =
        Target { width: fields.width, height: fields.height, filter: fields.resample, order: fields.resize_order };
    resize(image, &target, |row| {
        let (pixels, _) = row.as_chunks::<3>();
        let Some(mut planes) = rows.next() else { return };
        for (channel, (mut plane, table)) in planes.rows_mut().into_iter().zip(&tables).enumerate() {
            for (value, pixel) in plane.iter_mut().zip(pixels) {
                *value = table[usize::from(pixel[channel])];
            }
        }
    });
    PixelValues(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> PreprocessFields {
        PreprocessFields {
            height: 2,
            width: 2,
            resample: Filter::Bicubic,
            resize_order: ResizeOrder::Pillow13,
            alpha: AlphaPolicy::White,
            do_rescale: true,
            rescale_factor: 1.0 / 255.0,
            do_normalize: true,
            image_mean: [0.5; 3],
            image_std: [0.5; 3],
        }
    }

    fn refusal(fields: PreprocessFields) -> Option<&'static str> {
        PreprocessConfig::new(fields).err()
    }

    #[test]
    fn sides_lie_between_1_and_8192() {
        for side in [1, 8192] {
            assert_eq!(refusal(PreprocessFields { height: side, ..fields() }), None);
            assert_eq!(refusal(PreprocessFields { width: side, ..fields() }), None);
        }
        for side in [0, 8193] {
            let expected = Some("height and width must lie between 1 and 8192");
            assert_eq!(refusal(PreprocessFields { height: side, ..fields() }), expected);
            assert_eq!(refusal(PreprocessFields { width: side, ..fields() }), expected);
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused_by_name() {
        let nan = f64::NAN;
        for (wrong, text) in [
            (PreprocessFields { rescale_factor: nan, ..fields() }, "rescale_factor must be finite"),
            (PreprocessFields { image_mean: [0.5, nan, 0.5], ..fields() }, "image_mean must be finite"),
            (PreprocessFields { image_std: [0.5, nan, 0.5], ..fields() }, "image_std must be finite and not 0"),
            (PreprocessFields { image_std: [0.5, 0.5, 0.0], ..fields() }, "image_std must be finite and not 0"),
            (PreprocessFields { image_std: [0.5, 0.5, 1e-50], ..fields() }, "image_std must be finite and not 0"),
        ] {
            assert_eq!(refusal(wrong), Some(text), "{wrong:?}");
        }
    }

    #[test]
    fn numbers_of_skipped_steps_are_not_checked() {
        let nan = f64::NAN;
        let fields = fields();
        assert_eq!(refusal(PreprocessFields { do_rescale: false, rescale_factor: nan, ..fields }), None);
        let left_out = PreprocessFields { do_normalize: false, image_mean: [nan; 3], image_std: [0.0; 3], ..fields };
        assert_eq!(refusal(left_out), None);
    }

    #[test]
    fn numbers_that_give_infinite_values_are_refused() {
        assert!(PreprocessConfig::new(fields()).is_ok());
        let expected = "rescale_factor, image_mean and image_std must give finite values as f32";
        for wrong in [
            PreprocessFields { image_mean: [1e300, 0.5, 0.5], ..fields() },
            PreprocessFields { image_std: [0.5, 0.5, 1e-45], ..fields() },
            PreprocessFields { rescale_factor: 1e300, ..fields() },
        ] {
            assert_eq!(refusal(wrong), Some(expected), "{wrong:?}");
        }
    }

    #[test]
    fn planes_are_red_green_and_blue() {
        let config = PreprocessConfig::new(PreprocessFields {
            height: 1,
            width: 2,
            alpha: AlphaPolicy::Drop,
            do_rescale: false,
            image_mean: [1.0, 2.0, 3.0],
            image_std: [1.0, 2.0, 4.0],
            ..fields()
        })
        .unwrap();
        assert_eq!((config.size(), config.alpha()), ((1, 2), AlphaPolicy::Drop));
        let image = RgbImage { width: 2, height: 1, data: vec![1, 2, 3, 5, 8, 13] };
        let values = preprocess(&image, &config);
        assert_eq!((values.height(), values.width()), (1, 2));
        assert_eq!(values.view().iter().copied().collect::<Vec<_>>(), [0.0, 4.0, 0.0, 3.0, 0.0, 2.5]);
        assert_eq!(PixelValues::zeros(&config), PixelValues::new(Array3::zeros((3, 1, 2))));
        assert_eq!(values.clone().into_array(), values.view());
    }
}
