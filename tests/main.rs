//! Integration tests.

<<<<<<< HEAD
mod backend;
=======
mod wal;
>>>>>>> wal
