//! The eight orientations of a TIFF, applied as Pillow's `exif_transpose` does.

use super::Canvas;

/// Turns and mirrors the canvas; a value outside 2..=8 leaves it as it is.
pub(super) fn apply(canvas: Canvas, orientation: i64) -> Canvas {
    let (mirrored, flipped, transposed) = match orientation {
        2 => (true, false, false),
        3 => (true, true, false),
        4 => (false, true, false),
        5 => (false, false, true),
        6 => (false, true, true),
        7 => (true, true, true),
        8 => (true, false, true),
        _ => return canvas,
    };
    let Canvas { width, height, channels, data } = canvas;
    let (new_width, new_height) = if transposed { (height, width) } else { (width, height) };
    let mut turned = Vec::with_capacity(data.len());
    for y in 0..new_height {
        for x in 0..new_width {
            let (column, row) = if transposed { (y, x) } else { (x, y) };
            let column = if mirrored { width - 1 - column } else { column };
            let row = if flipped { height - 1 - row } else { row };
            turned.extend_from_slice(&data[(row * width + column) * channels..][..channels]);
        }
    }
    Canvas { width: new_width, height: new_height, channels, data: turned }
}
