//! TODO models
