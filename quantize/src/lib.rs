//! TODO quantize
