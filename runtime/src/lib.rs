//! TODO runtime
