//! Tests of the log. `disk` is a disk and a driver that keeps the caller's duties, `damage` harms
//! what is on it in every place, `model` compares random histories with a naive log.

mod damage;
mod disk;
mod model;
