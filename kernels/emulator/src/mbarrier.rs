//! The state machine of an mbarrier.
