//! Which shards may be read yet: a child only after each of its parents is finished or gone.
