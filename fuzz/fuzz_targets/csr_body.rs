//! The body of `POST /certificates/csr`, from its bytes to a proven key and the names asked for.
#![no_main]

use crank_agent::ca::read_csr_body;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    // The same bytes give the same answer, and a refusal is of a known kind.
    let read = read_csr_body(body);
    assert_eq!(read, read_csr_body(body));
    if let Err(kind) = read {
        assert!(crank_agent::ca::PROBLEM_TYPES.iter().any(|problem| problem.kind == kind), "{kind}");
    }
});
