//! Views of ONNX Runtime's tensors whose number of dimensions is in the type.

use ndarray::{ArrayView, ArrayViewMut, Dimension};
use ort::value::DynValue;

/// The numbers of a tensor in the CPU's memory.
pub(super) fn view<D: Dimension>(tensor: &DynValue) -> ort::Result<ArrayView<'_, f32, D>> {
    tensor.try_extract_array()?.into_dimensionality().map_err(ort::Error::wrap)
}

/// The numbers of a tensor in the CPU's memory, to be changed where they are.
pub(super) fn view_mut<D: Dimension>(tensor: &mut DynValue) -> ort::Result<ArrayViewMut<'_, f32, D>> {
    tensor.try_extract_array_mut()?.into_dimensionality().map_err(ort::Error::wrap)
}
