# The four hooks of crank-ca, as a mesh could answer them. What differs from mesh to mesh is in data.yaml.
# The default rules of the CA come first in any case: nothing here gives a worker more than they permit.
package crank

# May this worker have this certificate?

can_issue_certificate := {"allow": true, "reason": "own names, permitted key, approved"} if {
	count(objections) == 0
}

can_issue_certificate := {"allow": false, "reason": concat("; ", objections)} if {
	count(objections) > 0
}

objections contains sprintf("not a name of %s: %s", [input.identity.worker_id, name]) if {
	some name in input.request.names.dns
	not own_dns_name(name)
}

objections contains sprintf("not an address of %s: %s", [input.identity.worker_id, address]) if {
	some address in input.request.names.ip
	not own_address(address)
}

objections contains sprintf("keys of type %s are not for %s", [input.request.key_type, input.environment]) if {
	not input.request.key_type in data.settings.key_types[input.environment]
}

objections contains sprintf("%s has no approval for %s", [input.identity.worker_id, input.environment]) if {
	input.environment in data.approval.environments
	not approved
}

approved if {
	some pattern in data.approval.workers
	glob.match(pattern, ["."], input.identity.worker_id)
}

# The worker's id, localhost, and for a worker `namespace.name` the services of its namespace.

own_dns_name(name) if name in {input.identity.worker_id, "localhost"}

own_dns_name(name) if endswith(name, sprintf(".%s.%s", [namespace, data.settings.service_domain]))

namespace := parts[0] if {
	parts := split(input.identity.worker_id, ".")
	count(parts) > 1
}

own_address(address) if {
	some network in data.settings.networks
	net.cidr_contains(network, address)
}

# How long may it live?

default certificate_validity_period := {"allow": false, "reason": "no life is set for this environment"}

certificate_validity_period := {"period": period} if {
	period := data.settings.periods[input.environment]
}

# Should it be renewed now? In the last third of its life.

default should_renew_certificate := {"allow": false, "reason": "more than a third of its life is left"}

should_renew_certificate := {"allow": true, "reason": "in the last third of its life"} if {
	input.certificate.remaining_seconds * 3 <= input.certificate.lifetime_seconds
}

# May this one revoke it?

default revoke_certificate := {"allow": false, "reason": "only the worker itself, administrators and the operator"}

revoke_certificate := {"allow": true, "reason": "its own"} if {
	input.revocation.actor.kind == "worker"
	input.revocation.actor.name == input.revocation.worker_id
}

revoke_certificate := {"allow": true, "reason": "an administrator"} if {
	input.revocation.actor.kind == "admin"
	input.revocation.actor.name in data.admins
}

revoke_certificate := {"allow": true, "reason": "the operator"} if input.revocation.actor.kind == "operator"
