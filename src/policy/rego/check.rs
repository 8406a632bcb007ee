//! Owns what is looked for in a set before it is put in force: hooks without a rule, functions that are not available,
//! recursion. What regorus would find only when it gets there, or not survive.

use std::collections::{BTreeMap, BTreeSet};

use regorus::CompiledPolicy;
use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::Instruction;
use regorus::rvm::program::Program;

use super::RegoError;
use super::message::one_line;
use crate::policy::input::Hook;

/// Refuses what must not be evaluated. The program that regorus's other compiler makes of the set is not run; it shows
/// which rules the hooks reach, what these call, and names that nothing defines.
pub(super) fn check(policy: &CompiledPolicy) -> Result<(), RegoError> {
    if let Some(missing) = Hook::ALL.into_iter().find(|hook| !policy.get_rules().contains_key(hook.query())) {
        return Err(RegoError::NoRule(missing));
    }
    let queries = Hook::ALL.map(Hook::query);
    let program = Compiler::compile_from_policy(policy, &queries)
        .map_err(|error| RegoError::Rules(one_line(&error.to_string())))?;
    for builtin in &program.builtin_info_table {
        if let Some((name, reason)) = REFUSED.into_iter().find(|(name, _)| *name == builtin.name) {
            return Err(RegoError::Function { name: name.to_owned(), reason });
        }
    }
    if program.rule_infos.len() > RULES_LIMIT {
        return Err(RegoError::TooManyRules { found: program.rule_infos.len(), limit: RULES_LIMIT });
    }
    match cycle(&calls(&program)) {
        None => Ok(()),
        Some(rules) => {
            let name = |rule: &usize| program.rule_infos.get(*rule).map_or("?", |rule| rule.name.as_str());
            Err(RegoError::Recursive(rules.iter().map(name).collect::<Vec<_>>().join(" calls ")))
        }
    }
}

/// Which rules each rule calls, by their numbers.
fn calls(program: &Program) -> BTreeMap<usize, BTreeSet<usize>> {
    let mut beginnings = BTreeMap::new();
    for (rule, info) in program.rule_infos.iter().enumerate() {
        let bodies = info.definitions.iter().flatten().chain(info.destructuring_blocks.iter().flatten());
        beginnings.extend(bodies.map(|at| (usize::try_from(*at).unwrap_or(usize::MAX), rule)));
    }
    let mut calls: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (at, instruction) in program.instructions.iter().enumerate() {
        let called = match instruction {
            Instruction::CallRule { rule_index, .. } => usize::from(*rule_index),
            Instruction::FunctionCall { params_index } => {
                let parameters = program.instruction_data.function_call_params.get(usize::from(*params_index));
                let Some(parameters) = parameters else { continue };
                usize::from(parameters.func_rule_index)
            }
            _ => continue,
        };
        // A body goes on until the next begins. What is before the first is the hooks' own entry.
        if let Some((_, rule)) = beginnings.range(..=at).next_back() {
            calls.entry(*rule).or_default().insert(called);
        }
    }
    calls
}

/// Rules that call each other in a circle, the first of them at both ends.
fn cycle(calls: &BTreeMap<usize, BTreeSet<usize>>) -> Option<Vec<usize>> {
    let mut done = BTreeSet::new();
    for start in calls.keys() {
        // Depth first, with the way here as a stack of its own.
        let mut way = vec![(*start, calls[start].iter())];
        while let Some((rule, called)) = way.last_mut() {
            let rule = *rule;
            let Some(next) = called.find(|next| !done.contains(*next)) else {
                done.insert(rule);
                way.pop();
                continue;
            };
            if let Some(at) = way.iter().position(|(rule, _)| rule == next) {
                return Some(way[at..].iter().map(|(rule, _)| *rule).chain([*next]).collect());
            }
            match calls.get(next) {
                Some(called) => way.push((*next, called.iter())),
                None => {
                    done.insert(*next);
                }
            }
        }
    }
    None
}

/// Functions that no rule may call, and why. Those that reach out of the process are not compiled in.
const REFUSED: [(&str, &str); 5] = [
    ("bits.lsh", MUCH_OF_LITTLE),
    ("net.cidr_expand", MUCH_OF_LITTLE),
    ("numbers.range", MUCH_OF_LITTLE),
    ("numbers.range_step", MUCH_OF_LITTLE),
    ("rand.intn", "the same question must have the same answer"),
];

const MUCH_OF_LITTLE: &str = "it can fill the CA's memory in one call";

/// The most rules that the hooks reach, and so the longest chain of them.
const RULES_LIMIT: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_circle_is_found_where_there_is_one_and_only_there(
            edges in proptest::collection::btree_set((0_usize..6, 0_usize..6), 0..12),
        ) {
            let mut calls: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
            for (from, to) in &edges {
                calls.entry(*from).or_default().insert(*to);
            }
            // By another way: take away what calls nothing until nothing changes.
            let mut left = edges.clone();
            loop {
                let callers: BTreeSet<usize> = left.iter().map(|(from, _)| *from).collect();
                let before = left.len();
                left.retain(|(_, to)| callers.contains(to));
                if left.len() == before {
                    break;
                }
            }
            match cycle(&calls) {
                None => prop_assert!(left.is_empty()),
                Some(way) => {
                    prop_assert!(way.len() >= 2 && way.first() == way.last());
                    prop_assert!(way.windows(2).all(|pair| edges.contains(&(pair[0], pair[1]))));
                }
            }
        }
    }
}
