"""`twostage reproduce TABLE`: the rows of a published table, trained and measured under one budget."""
