//! Keys and values in the memory of a GPU, and the two small graphs that put images together and take them apart there.
//!
//! Host code never touches that memory: what changes is a run of `Concat` or `Gather` on the device itself, built here with
//! ONNX Runtime's model editor.

use std::sync::Arc;

use ort::{
    Result,
    editor::{Graph, Model, Node, ONNX_DOMAIN, Opset},
    memory::{Allocator, MemoryInfo},
    operator::Attribute,
    session::{IoBinding, Session, SessionInputValue, builder::SessionBuilder},
    value::{DynValue, Outlet, Shape, SymbolicDimensions, Tensor, TensorElementType, ValueType},
};

use crate::blip::vision_encoder::EncodedImage;

const OPSET: u32 = 20;

/// A device, for the `count` tensors of each image.
pub(crate) struct Device {
    /// Of its memory.
    pub(crate) allocator: Allocator,
    count: usize,
    concat: Session,
    gather: Session,
}

/// [`super::cross_attention::CrossAttention`] on a device.
#[derive(Default)]
pub(crate) struct DeviceImages {
    slots: Vec<Slot>,
    /// `[count][images, ...]` as last arranged.
    stacked: Vec<DynValue>,
}

enum Slot {
    /// The image at this place of `stacked`.
    Stacked(usize),
    New(Arc<EncodedImage>),
}

impl Device {
    /// `session` runs on it; `builder` makes sessions that do.
    pub(crate) fn new(
        session: &Session,
        memory: MemoryInfo<'static>,
        builder: impl Fn() -> Result<SessionBuilder>,
        count: usize,
    ) -> Result<Self> {
        let axis = || Attribute::new("axis", 0_i64);
        let names = |prefix: &str| (0..count).map(|index| format!("{prefix}{index}")).collect::<Vec<_>>();
        let (a, b, out) = (names("a"), names("b"), names("out"));
        let mut concat = Graph::new()?;
        concat.set_inputs(a.iter().chain(&b).map(|name| tensor(name)))?;
        concat.set_outputs(out.iter().map(|name| tensor(name)))?;
        let mut gather = Graph::new()?;
        let index = Outlet::new(
            "index",
            ValueType::Tensor {
                ty: TensorElementType::Int64,
                shape: Shape::new([-1]),
                dimension_symbols: SymbolicDimensions::empty(1),
            },
        );
        gather.set_inputs(a.iter().map(|name| tensor(name)).chain([index]))?;
        gather.set_outputs(out.iter().map(|name| tensor(name)))?;
        for ((a, b), out) in a.iter().zip(&b).zip(&out) {
            concat.add_node(Node::new("Concat", ONNX_DOMAIN, format!("concat_{out}"), [a, b], [out], [axis()?])?)?;
            let inputs = [a.as_str(), "index"];
            gather.add_node(Node::new("Gather", ONNX_DOMAIN, format!("gather_{out}"), inputs, [out], [axis()?])?)?;
        }
        let session_of = |graph| {
            let mut model = Model::new([Opset::new(ONNX_DOMAIN, OPSET)?])?;
            model.set_graph(graph)?;
            model.into_session(&builder()?)
        };
        let allocator = Allocator::new(session, memory)?;
        Ok(Self { allocator, count, concat: session_of(concat)?, gather: session_of(gather)? })
    }

    /// The images of `a`, then those of `b`.
    fn concat(&mut self, a: &[DynValue], b: &[DynValue]) -> Result<Vec<DynValue>> {
        let mut binding = self.concat.create_binding()?;
        for (index, (a, b)) in a.iter().zip(b).enumerate() {
            binding.bind_input(format!("a{index}"), a)?;
            binding.bind_input(format!("b{index}"), b)?;
        }
        self.bind_outputs(&mut binding)?;
        run(&mut self.concat, &binding, self.count)
    }

    /// Image `index[i]` of `tensors` as image `i`.
    pub(crate) fn gather(&mut self, tensors: &[DynValue], index: &[i64]) -> Result<Vec<DynValue>> {
        let mut binding = self.gather.create_binding()?;
        for (number, tensor) in tensors.iter().enumerate() {
            binding.bind_input(format!("a{number}"), tensor)?;
        }
        binding.bind_input("index", &Tensor::from_array(([index.len()], index.to_vec()))?)?;
        self.bind_outputs(&mut binding)?;
        run(&mut self.gather, &binding, self.count)
    }

    fn bind_outputs(&self, binding: &mut IoBinding) -> Result<()> {
        (0..self.count)
            .try_for_each(|index| binding.bind_output_to_device(format!("out{index}"), self.allocator.memory_info()))
    }
}

impl DeviceImages {
    pub(crate) fn push(&mut self, image: Arc<EncodedImage>) -> usize {
        self.slots.push(Slot::New(image));
        self.slots.len() - 1
    }

    pub(crate) fn swap_remove(&mut self, slot: usize) {
        self.slots.swap_remove(slot);
        if self.slots.is_empty() {
            self.stacked.clear();
        }
    }

    /// Carries out what has changed.
    pub(crate) fn arrange(&mut self, device: &mut Device) -> Result<()> {
        let in_place = |(place, slot): (usize, &Slot)| matches!(slot, Slot::Stacked(index) if *index == place);
        let kept = self.slots.iter().filter(|slot| matches!(slot, Slot::Stacked(_))).count();
        let stacked_images = self.stacked.first().map_or(0, |tensor| tensor.shape()[0] as usize);
        if self.slots.iter().enumerate().all(in_place) && kept == stacked_images {
            return Ok(());
        }
        if let [Slot::New(_)] = self.slots[..] {
            // Used as the encoder left it.
            return Ok(());
        }
        let (mut count, mut index) = (stacked_images, Vec::with_capacity(self.slots.len()));
        for slot in &self.slots {
            match slot {
                Slot::Stacked(place) => index.push(*place as i64),
                Slot::New(image) => {
                    if self.stacked.is_empty() {
                        self.stacked = device.gather(&image.cross, &[0])?;
                    } else {
                        self.stacked = device.concat(&self.stacked, &image.cross)?;
                    }
                    index.push(count as i64);
                    count += 1;
                }
            }
        }
        if !index.iter().copied().eq(0..count as i64) {
            self.stacked = device.gather(&self.stacked, &index)?;
        }
        for (place, slot) in self.slots.iter_mut().enumerate() {
            *slot = Slot::Stacked(place);
        }
        Ok(())
    }

    /// Tensor `index` as the decoder takes it.
    pub(crate) fn input(&self, index: usize) -> SessionInputValue<'_> {
        match &self.slots[..] {
            [Slot::New(image)] => (&image.cross[index]).into(),
            _ => (&self.stacked[index]).into(),
        }
    }
}

fn run(session: &mut Session, binding: &IoBinding, count: usize) -> Result<Vec<DynValue>> {
    let mut outputs = session.run_binding(binding)?;
    let missing = || ort::Error::new("an output is missing");
    (0..count).map(|index| outputs.remove(format!("out{index}")).ok_or_else(missing)).collect()
}

/// Four dimensions, known only at run time.
fn tensor(name: &str) -> Outlet {
    Outlet::new(
        name,
        ValueType::Tensor {
            ty: TensorElementType::Float32,
            shape: Shape::new([-1; 4]),
            dimension_symbols: SymbolicDimensions::empty(4),
        },
    )
}
