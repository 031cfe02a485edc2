//! A graph of ggml's, made and run through its C interface (`ggml.h`, `ggml-backend.h`, `ggml-alloc.h`, `ggml-cpu.h` of llama.cpp).
//!
//! All `unsafe` of it is here, behind nodes that are numbers: a node of another session is a wrong answer or a panic, never a wild pointer. Shapes
//! that do not fit end the program, as ggml itself decides.
#![allow(unsafe_code, reason = "calls into C")]

use std::{
    ffi::{CStr, c_char, c_void},
    mem::transmute,
    ptr,
};

use llama_cpp_sys_2 as sys;
use pumice_kernels::{Bytes, DType};

/// Tensors of a context at most: the longest graph here has some fifty, the largest pool of matrices as many.
const TENSORS: usize = 256;

/// A tensor of a [`Session`].
#[derive(Debug, Clone, Copy)]
pub struct Node(usize);

/// A CPU backend with its threads, and one graph.
///
/// First leaves and ops, then [`Session::ready`], then any number of runs.
pub struct Session {
    backend: sys::ggml_backend_t,
    threads: *mut sys::ggml_threadpool,
    /// Leaves that lie as they came.
    plain: *mut sys::ggml_context,
    /// Leaves that ggml repacks.
    packed: *mut sys::ggml_context,
    /// What is computed.
    ops: *mut sys::ggml_context,
    /// All tensors, in order.
    tensors: Vec<*mut sys::ggml_tensor>,
    /// The leaves' bytes until they are uploaded.
    uploads: Vec<(Node, Bytes)>,
    /// Where leaves lie.
    buffers: Vec<sys::ggml_backend_buffer_t>,
    /// Where results lie.
    allocator: sys::ggml_gallocr_t,
    graph: *mut sys::ggml_cgraph,
}

/// Takes ggml's messages, and says nothing.
unsafe extern "C" fn silent(_: sys::ggml_log_level, _: *const c_char, _: *mut c_void) {}

/// Keeps ggml and llama.cpp from writing between the figures.
pub fn be_silent() {
    // SAFETY: the callback has the type that is asked for and needs no data.
    unsafe { sys::llama_log_set(Some(silent), ptr::null_mut()) };
}

/// Version of ggml, and the instruction sets that it was built for.
pub fn built() -> (String, Vec<&'static str>) {
    // SAFETY: these take nothing; the version is a constant that ends in zero.
    let (version, has) = unsafe {
        (
            CStr::from_ptr(sys::ggml_version()).to_string_lossy(),
            [
                ("avx2", sys::ggml_cpu_has_avx2()),
                ("avx_vnni", sys::ggml_cpu_has_avx_vnni()),
                ("avx512", sys::ggml_cpu_has_avx512()),
                ("avx512_vnni", sys::ggml_cpu_has_avx512_vnni()),
                ("avx512_bf16", sys::ggml_cpu_has_avx512_bf16()),
                ("amx_int8", sys::ggml_cpu_has_amx_int8()),
                ("neon", sys::ggml_cpu_has_neon()),
                ("dotprod", sys::ggml_cpu_has_dotprod()),
                ("matmul_int8", sys::ggml_cpu_has_matmul_int8()),
                ("llamafile", sys::ggml_cpu_has_llamafile()),
            ],
        )
    };
    let built = has.into_iter().filter(|(_, has)| *has != 0).map(|(name, _)| name);
    (format!("ggml {version}"), built.collect())
}

/// A context of tensors without data.
fn context() -> *mut sys::ggml_context {
    // SAFETY: these take numbers only; a null buffer has ggml allocate.
    let context = unsafe {
        let mem_size =
            TENSORS * sys::ggml_tensor_overhead() + sys::ggml_graph_overhead_custom(TENSORS, false);
        sys::ggml_init(sys::ggml_init_params { mem_size, mem_buffer: ptr::null_mut(), no_alloc: true })
    };
    assert!(!context.is_null(), "ggml has no memory for a context");
    context
}

/// The buffer type in which the CPU device keeps matrices [m, k] of `dtype` for products with many rows, where it is not its plain one: asked as
/// llama.cpp asks when it loads a model.
fn packing(dtype: DType, m: usize, k: usize) -> Option<sys::ggml_backend_buffer_type_t> {
    // SAFETY: the CPU's registry and its only device live as long as the program. The function of this name has this type (`ggml-backend.h`); the
    // list that it gives ends in null. The weight's buffer is taken from it before that is freed, and nothing is computed.
    unsafe {
        let registry = sys::ggml_backend_cpu_reg();
        let device = sys::ggml_backend_reg_dev_get(registry, 0);
        let name = c"ggml_backend_dev_get_extra_bufts".as_ptr();
        let function = sys::ggml_backend_reg_get_proc_address(registry, name);
        let list = transmute::<*mut c_void, sys::ggml_backend_dev_get_extra_bufts_t>(function);
        let mut list = list?(device);
        if list.is_null() {
            return None;
        }
        let context = context();
        let w = sys::ggml_new_tensor_2d(context, dtype as sys::ggml_type, k as i64, m as i64);
        let x = sys::ggml_new_tensor_2d(context, DType::F32 as sys::ggml_type, k as i64, 512);
        let product = sys::ggml_mul_mat(context, w, x);
        let mut found = None;
        while found.is_none() && !(*list).is_null() {
            let buffer = sys::ggml_backend_buft_alloc_buffer(*list, 0);
            (*w).buffer = buffer;
            found = sys::ggml_backend_dev_supports_op(device, product).then_some(*list);
            (*w).buffer = ptr::null_mut();
            sys::ggml_backend_buffer_free(buffer);
            list = list.add(1);
        }
        sys::ggml_free(context);
        found
    }
}

/// Whether ggml repacks matrices [m, k] of `dtype`.
pub fn repacks(dtype: DType, m: usize, k: usize) -> bool {
    packing(dtype, m, k).is_some()
}

impl Session {
    /// A session without tensors; starts its threads.
    pub fn new(threads: usize) -> Self {
        let count = i32::try_from(threads).expect("a number of threads");
        // SAFETY: the parameters outlive the call that reads them; the backend is told of threads that outlive it.
        let (backend, threads) = unsafe {
            let mut params = sys::ggml_threadpool_params_default(count);
            let threads = sys::ggml_threadpool_new(&raw mut params);
            let backend = sys::ggml_backend_cpu_init();
            assert!(!threads.is_null() && !backend.is_null(), "ggml has no memory for a backend");
            sys::ggml_backend_cpu_set_n_threads(backend, count);
            sys::ggml_backend_cpu_set_threadpool(backend, threads);
            (backend, threads)
        };
        Self {
            backend,
            threads,
            plain: context(),
            packed: context(),
            ops: context(),
            tensors: Vec::new(),
            uploads: Vec::new(),
            buffers: Vec::new(),
            allocator: ptr::null_mut(),
            graph: ptr::null_mut(),
        }
    }

    /// A tensor with `bytes`; `dims` fastest first.
    pub fn leaf(&mut self, dtype: DType, dims: &[usize], bytes: Bytes) -> Node {
        self.put(self.plain, dtype, dims, bytes)
    }

    /// A matrix for products, [k, m] as `dims`, that ggml repacks.
    pub fn packed_leaf(&mut self, dtype: DType, dims: &[usize; 2], bytes: Bytes) -> Node {
        self.put(self.packed, dtype, dims, bytes)
    }

    fn put(&mut self, to: *mut sys::ggml_context, dtype: DType, dims: &[usize], bytes: Bytes) -> Node {
        assert!(self.graph.is_null(), "a leaf after the graph was made");
        let dims = sizes(dims);
        // SAFETY: the context is one of ours and `dims` has 4 numbers; ggml copies them.
        let tensor = unsafe { sys::ggml_new_tensor(to, dtype as sys::ggml_type, 4, dims.as_ptr()) };
        let node = self.push(tensor);
        self.uploads.push((node, bytes));
        node
    }

    fn push(&mut self, tensor: *mut sys::ggml_tensor) -> Node {
        assert!(!tensor.is_null(), "ggml made no tensor");
        self.tensors.push(tensor);
        Node(self.tensors.len() - 1)
    }

    /// The result of `make`, which is given the context of ops.
    fn op(&mut self, make: impl FnOnce(&Self, *mut sys::ggml_context) -> *mut sys::ggml_tensor) -> Node {
        assert!(self.graph.is_null(), "an op after the graph was made");
        let tensor = make(self, self.ops);
        self.push(tensor)
    }

    /// w·x: `w` [k, m], `x` [k, n] in ggml's order.
    pub fn mul_mat(&mut self, w: Node, x: Node) -> Node {
        // SAFETY: as in all ops below: context and tensors are this session's and live.
        self.op(|s, ops| unsafe { sys::ggml_mul_mat(ops, s.tensors[w.0], s.tensors[x.0]) })
    }

    /// a + b, `b` repeated.
    pub fn add(&mut self, a: Node, b: Node) -> Node {
        // SAFETY: see `mul_mat`.
        self.op(|s, ops| unsafe { sys::ggml_add(ops, s.tensors[a.0], s.tensors[b.0]) })
    }

    /// a·b by elements, `b` repeated.
    pub fn mul(&mut self, a: Node, b: Node) -> Node {
        // SAFETY: see `mul_mat`.
        self.op(|s, ops| unsafe { sys::ggml_mul(ops, s.tensors[a.0], s.tensors[b.0]) })
    }

    /// (x − mean)/√(var + eps) by rows.
    pub fn norm(&mut self, x: Node, eps: f32) -> Node {
        // SAFETY: see `mul_mat`.
        self.op(|s, ops| unsafe { sys::ggml_norm(ops, s.tensors[x.0], eps) })
    }

    /// x·σ(1.702·x).
    pub fn gelu_quick(&mut self, x: Node) -> Node {
        // SAFETY: see `mul_mat`.
        self.op(|s, ops| unsafe { sys::ggml_gelu_quick(ops, s.tensors[x.0]) })
    }

    /// The same elements with other dimensions.
    pub fn reshape(&mut self, x: Node, dims: &[usize]) -> Node {
        let [a, b, c, d] = sizes(dims);
        // SAFETY: see `mul_mat`.
        self.op(|s, ops| unsafe { sys::ggml_reshape_4d(ops, s.tensors[x.0], a, b, c, d) })
    }

    /// A view with dimension i at place `places[i]`.
    pub fn permute(&mut self, x: Node, places: [i32; 4]) -> Node {
        let [a, b, c, d] = places;
        // SAFETY: see `mul_mat`.
        self.op(|s, ops| unsafe { sys::ggml_permute(ops, s.tensors[x.0], a, b, c, d) })
    }

    /// A matrix, transposed and copied.
    pub fn transpose(&mut self, x: Node) -> Node {
        // SAFETY: see `mul_mat`.
        self.op(|s, ops| unsafe { sys::ggml_cont(ops, sys::ggml_transpose(ops, s.tensors[x.0])) })
    }

    /// The rows of `a`, then those of `b`.
    pub fn concat_rows(&mut self, a: Node, b: Node) -> Node {
        // SAFETY: see `mul_mat`.
        self.op(|s, ops| unsafe { sys::ggml_concat(ops, s.tensors[a.0], s.tensors[b.0], 1) })
    }

    /// A copy of the rows from `first` on of the F32 matrix `x`.
    pub fn rows_from(&mut self, x: Node, first: usize) -> Node {
        // SAFETY: see `mul_mat`; the view ends where `x` does.
        self.op(|s, ops| unsafe {
            let x = s.tensors[x.0];
            let ([cols, rows, ..], stride) = ((*x).ne, (*x).nb[1]);
            let view = sys::ggml_view_2d(ops, x, cols, rows - first as i64, stride, first * stride);
            sys::ggml_cont(ops, view)
        })
    }

    /// A copy in another type.
    pub fn cast(&mut self, x: Node, dtype: DType) -> Node {
        // SAFETY: see `mul_mat`.
        self.op(|s, ops| unsafe { sys::ggml_cast(ops, s.tensors[x.0], dtype as sys::ggml_type) })
    }

    /// Whether `x` is of F32.
    pub fn is_f32(&self, x: Node) -> bool {
        // SAFETY: the tensor is this session's and lives.
        unsafe { (*self.tensors[x.0]).type_ == DType::F32 as sys::ggml_type }
    }

    /// Patches of side and distance `patch` of an image, each times `kernel`.
    pub fn conv_2d(&mut self, kernel: Node, image: Node, patch: usize) -> Node {
        let patch = patch as i32;
        // SAFETY: see `mul_mat`.
        self.op(|s, ops| unsafe {
            sys::ggml_conv_2d(ops, s.tensors[kernel.0], s.tensors[image.0], patch, patch, 0, 0, 1, 1)
        })
    }

    /// softmax(scale·q·kᵀ + mask)·v: `q` [d, n, h], `k` and `v` [d, len, h], `mask` [len, n]; gives [d, h, n]. Sums in f32, as llama.cpp asks for.
    pub fn flash_attention(&mut self, (q, k, v): (Node, Node, Node), mask: Option<Node>, scale: f32) -> Node {
        // SAFETY: see `mul_mat`; a null mask is none.
        self.op(|s, ops| unsafe {
            let [q, k, v] = [q, k, v].map(|x| s.tensors[x.0]);
            let mask = mask.map_or(ptr::null_mut(), |mask| s.tensors[mask.0]);
            let out = sys::ggml_flash_attn_ext(ops, q, k, v, mask, scale, 0.0, 0.0);
            sys::ggml_prec_set_acc(out, sys::GGML_PREC_F32);
            out
        })
    }

    /// Makes the graph that computes `outs`, finds room for everything and uploads the leaves.
    pub fn ready(&mut self, outs: &[Node]) {
        // SAFETY: contexts, tensors and backend are this session's. A context without tensors gets no buffer, which is no error. The graph's tensors
        // live in `ops`; buffers and allocator are kept until the session goes.
        unsafe {
            let plain = sys::ggml_backend_get_default_buffer_type(self.backend);
            self.place(self.plain, plain);
            let first = sys::ggml_get_first_tensor(self.packed);
            if let Some(first) = first.as_ref() {
                let dtype = DType::from_ggml(first.type_).expect("a type of ours");
                let to = packing(dtype, first.ne[1] as usize, first.ne[0] as usize);
                self.place(self.packed, to.expect("ggml repacks such matrices"));
            }
            self.graph = sys::ggml_new_graph_custom(self.ops, TENSORS, false);
            for out in outs {
                sys::ggml_set_output(self.tensors[out.0]);
                sys::ggml_build_forward_expand(self.graph, self.tensors[out.0]);
            }
            self.allocator = sys::ggml_gallocr_new(plain);
            assert!(
                sys::ggml_gallocr_alloc_graph(self.allocator, self.graph),
                "ggml has no memory for results"
            );
        }
        for (node, bytes) in std::mem::take(&mut self.uploads) {
            let tensor = self.tensors[node.0];
            // SAFETY: the tensor has its buffer now, and takes as many bytes as there are.
            unsafe {
                assert_eq!(sys::ggml_nbytes(tensor), bytes.len(), "bytes of a leaf");
                sys::ggml_backend_tensor_set(tensor, bytes.as_ptr().cast(), 0, bytes.len());
            }
        }
    }

    /// Finds room for the tensors of `context` in a buffer of type `kind`.
    fn place(&mut self, context: *mut sys::ggml_context, kind: sys::ggml_backend_buffer_type_t) {
        // SAFETY: the context is one of ours, its tensors have no room yet, and the buffer lives as long as they.
        unsafe {
            let buffer = sys::ggml_backend_alloc_ctx_tensors_from_buft(context, kind);
            assert!(!buffer.is_null(), "ggml has no memory for weights");
            sys::ggml_backend_buffer_set_usage(buffer, sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
            self.buffers.push(buffer);
        }
    }

    /// Runs the graph.
    pub fn compute(&mut self) {
        assert!(!self.graph.is_null(), "a run before the graph was made");
        // SAFETY: backend and graph are this session's, and everything in it has room.
        let status = unsafe { sys::ggml_backend_graph_compute(self.backend, self.graph) };
        assert_eq!(status, sys::GGML_STATUS_SUCCESS, "ggml failed at a graph");
    }

    /// Puts the threads to sleep; the next run wakes them.
    pub fn rest(&mut self) {
        // SAFETY: the threads are this session's and have nothing to do.
        unsafe { sys::ggml_threadpool_pause(self.threads) };
    }

    /// The numbers of `x`, an F32 result.
    pub fn read(&self, x: Node) -> Vec<f32> {
        let tensor = self.tensors[x.0];
        assert!(self.is_f32(x) && !self.graph.is_null(), "a result of F32");
        // SAFETY: a result that lies whole in its buffer, and as much room as it is long.
        unsafe {
            let mut values = vec![0f32; sys::ggml_nbytes(tensor) / size_of::<f32>()];
            let to: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
            sys::ggml_backend_tensor_get(tensor, to.as_mut_ptr().cast(), 0, to.len());
            values
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: each is this session's and goes once: what lies in buffers before the threads' backend, contexts last. Null is let pass.
        unsafe {
            sys::ggml_gallocr_free(self.allocator);
            self.buffers.drain(..).for_each(|buffer| sys::ggml_backend_buffer_free(buffer));
            sys::ggml_backend_free(self.backend);
            sys::ggml_threadpool_free(self.threads);
            [self.plain, self.packed, self.ops].into_iter().for_each(|context| sys::ggml_free(context));
        }
    }
}

/// `dims` as four numbers.
fn sizes(dims: &[usize]) -> [i64; 4] {
    std::array::from_fn(|i| dims.get(i).map_or(1, |d| *d as i64))
}
