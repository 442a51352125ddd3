//! Goal: after any history of batches, truncations, marks, rotations, removals and restarts, recovery
//! returns what a naive log holds. Method: random steps on both.
