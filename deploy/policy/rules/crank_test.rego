package crank_test

import data.crank

question(worker, names) := {
	"environment": "production",
	"identity": {"worker_id": worker},
	"request": {"key_type": "ecdsa-p256", "names": {"dns": names, "ip": [], "uri": []}},
}

test_own_names_are_allowed if {
	crank.can_issue_certificate.allow with input as question("streaming", ["streaming", "localhost"])
}

test_a_foreign_name_is_told if {
	answer := crank.can_issue_certificate with input as question("streaming", ["streaming", "ledger"])
	answer == {"allow": false, "reason": "not a name of streaming: ledger"}
}

test_a_service_of_the_own_namespace_is_allowed if {
	names := ["api.payments.svc.cluster.local"]
	crank.can_issue_certificate.allow with input as question("payments.api", names)
	not crank.can_issue_certificate.allow with input as question("streaming", names)
}

test_production_needs_approval_and_development_does_not if {
	new := question("new", ["new"])
	not crank.can_issue_certificate.allow with input as new
	crank.can_issue_certificate.allow with input as object.union(new, {"environment": "development"})
}

test_lives_differ_by_environment if {
	crank.certificate_validity_period.period == "24h" with input as {"environment": "production"}
	crank.certificate_validity_period.period == "7d" with input as {"environment": "development"}
}
