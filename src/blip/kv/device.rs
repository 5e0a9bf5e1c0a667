//! Two small graphs that concatenate and select images in the memory of a GPU.
//!
//! Host code never accesses it: every change is a run of `Concat` or `Gather` on the device itself. The graphs are
//! built here with ONNX Runtime's model editor.

use ort::{
    Result,
    editor::{Graph, Model, Node, ONNX_DOMAIN, Opset},
    memory::{Allocator, MemoryInfo},
    operator::Attribute,
    session::{IoBinding, Session, builder::SessionBuilder},
    value::{DynValue, Outlet, Shape, SymbolicDimensions, Tensor, TensorElementType, ValueType},
};

const OPSET: u32 = 20;

/// A device, and the graphs that run on it.
pub(crate) struct Device {
    /// Allocates the device's memory.
    pub(crate) allocator: Allocator,
    /// Tensors of an image.
    count: usize,
    concat: Session,
    gather: Session,
}

impl Device {
    /// Makes the graphs for images of `count` tensors; `session` runs on the device and `builder` makes sessions that do.
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
        let new_session = |graph| {
            let mut model = Model::new([Opset::new(ONNX_DOMAIN, OPSET)?])?;
            model.set_graph(graph)?;
            model.into_session(&builder()?)
        };
        let allocator = Allocator::new(session, memory)?;
        Ok(Self { allocator, count, concat: new_session(concat)?, gather: new_session(gather)? })
    }

    /// Returns the images of `a`, then those of `b`.
    pub(crate) fn concat(&mut self, a: &[DynValue], b: &[DynValue]) -> Result<Vec<DynValue>> {
        let mut binding = self.concat.create_binding()?;
        for (index, (a, b)) in a.iter().zip(b).enumerate() {
            binding.bind_input(format!("a{index}"), a)?;
            binding.bind_input(format!("b{index}"), b)?;
        }
        self.bind_outputs(&mut binding)?;
        run(&mut self.concat, &binding, self.count)
    }

    /// Returns image `order[i]` of `tensors` as image `i`.
    pub(crate) fn gather(&mut self, tensors: &[DynValue], order: &[i64]) -> Result<Vec<DynValue>> {
        let mut binding = self.gather.create_binding()?;
        for (number, tensor) in tensors.iter().enumerate() {
            binding.bind_input(format!("a{number}"), tensor)?;
        }
        binding.bind_input("index", &Tensor::from_array(([order.len()], order.to_vec()))?)?;
        self.bind_outputs(&mut binding)?;
        run(&mut self.gather, &binding, self.count)
    }

    fn bind_outputs(&self, binding: &mut IoBinding) -> Result<()> {
        (0..self.count)
            .try_for_each(|index| binding.bind_output_to_device(format!("out{index}"), self.allocator.memory_info()))
    }
}

fn run(session: &mut Session, binding: &IoBinding, count: usize) -> Result<Vec<DynValue>> {
    let mut outputs = session.run_binding(binding)?;
    let missing = || ort::Error::new("an output is missing");
    (0..count).map(|index| outputs.remove(format!("out{index}")).ok_or_else(missing)).collect()
}

/// An f32 tensor of four dimensions that are known only at run time.
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
