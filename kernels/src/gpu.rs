//! Graphics processors through wgpu: Vulkan, Metal, DirectX 12.
