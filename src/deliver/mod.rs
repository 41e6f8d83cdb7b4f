//! Objects → store, whole or not at all, and never over an object that exists.
