enable f16;
enable wgpu_cooperative_matrix;
// naga asks of products what it asks of derivatives: that all lanes of a workgroup take part. Those of a subgroup are enough.
diagnostic(off, derivative_uniformity);

// Matrices of 8×8 that a subgroup multiplies in one step: Apple's, and those of Mesa's lavapipe (26.1 has them, 25.0 not).

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sums = coop_mat8x8<f32, C>;
const SIDE = 8u;
