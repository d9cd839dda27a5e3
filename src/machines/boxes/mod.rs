//! Boxes: machine images built from definitions, cached by content.
