enable f16;
enable wgpu_cooperative_matrix;
// naga asks of products what it asks of derivatives: that all lanes of a workgroup take part. Those of a subgroup are enough.
diagnostic(off, derivative_uniformity);

// Matrices of 16×16 that a subgroup multiplies in one step: those of Nvidia and AMD.

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;
const SIDE = 16u;
