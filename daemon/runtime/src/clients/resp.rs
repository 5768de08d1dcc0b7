//! A RESP connection's input: commands for the groups, and what the node answers itself.

use panch_consensus::protocol::Order;
use panch_replica::batcher::{BatchLimits, Excess};
use panch_replica::outbox::ReplyTo;
use panch_replica::replica::Level;
use panch_wire::client::{Commit, ReadLevel};
use panch_wire::command::{Command, CommandError, CommandKind, Reply};
use panch_wire::resp::{
    self, ClientRequest, CommandName, HelloRequest, Limits, Parsed, Parser, Replies, Request,
};
use panch_wire::time::Instant;

use super::connection::{Connection, RespSpeech, Speech};
use super::describe::{self, Neighbours};
use super::multi::{self, Execution, Multi, Unfit};
use super::order::{Class, Form, ReplyOrder};
use super::output::Output;
use super::{Counter, Denial, Past, Stop, submitted_level, topology};

/// The state of a new connection.
pub(crate) fn speech(value_size_max: usize) -> Speech {
    let defaults = Limits::default();
    let bulk_size_max = (value_size_max as u32).max(1 << 16);
    let request_size_max = defaults.request_size_max.max(bulk_size_max.saturating_mul(2));
    Speech::Resp(Box::new(RespSpeech {
        parser: Parser::new(Limits { bulk_size_max, request_size_max, ..defaults }),
        resp3: false,
        order: ReplyOrder::default(),
        multi: Multi::default(),
        readonly: false,
        name: Vec::new(),
        library: Vec::new(),
        library_version: Vec::new(),
    }))
}

/// Answers to which other cores add that are under way on one core.
const GATHERINGS_MAX: usize = 4;

/// Consumes commands from the front of `input`. Returns how many bytes, and why it stopped.
pub(crate) fn consume(
    connection: &mut Connection,
    input: &[u8],
    counter: &mut Counter<'_>,
    neighbours: &Neighbours<'_>,
    scratch: &mut Vec<u8>,
) -> (usize, Stop) {
    let mut at = 0;
    (connection.waits_until, connection.needed) = (None, 0);
    loop {
        if connection.is_full(counter.room) {
            return (at, Stop::Stalled);
        }
        let Speech::Resp(speech) = &mut connection.speech else { unreachable!("the caller looked") };
        let rest = &input[at..];
        let size = match speech.parser.parse(rest) {
            Ok(Parsed::Command { consumed }) => consumed,
            Ok(Parsed::Empty { consumed }) => {
                at += consumed;
                continue;
            }
            Ok(Parsed::Incomplete { needed }) => {
                connection.needed = needed;
                return (at, Stop::NeedBytes);
            }
            Ok(Parsed::Oversize { consumed, what }) => {
                let sizes = sizes(&counter.view.options.replica.batch);
                let refusal = resp::Refusal::of_oversize(what, speech.parser.arguments(rest), &sizes);
                let name = speech.parser.arguments(rest).iter().next();
                refuse(name.is_some_and(is_watch), &mut speech.multi);
                answer(&mut speech.order, &mut connection.output, |out| refusal.write(out));
                speech.order.end_command();
                at += consumed;
                continue;
            }
            Err(fault) => {
                answer(&mut speech.order, &mut connection.output, |out| fault.write(out));
                return (input.len(), Stop::Close(true));
            }
        };
        // The arguments borrow the parser; everything else of the connection stays free.
        let RespSpeech { parser, resp3, order, multi, readonly, name, library, library_version } =
            &mut **speech;
        let output = &mut connection.output;
        let limits = &counter.view.options.replica.batch;
        let command_name = CommandName::find(parser.arguments(rest).get(0));
        let request = match command_name {
            Some(command) => resp::translate_named(command, parser.arguments(rest), scratch),
            None => Err(resp::Refusal::UnknownCommand(parser.arguments(rest))),
        };
        let request = match request.and_then(|request| admit(request, limits)) {
            Ok(request) => request,
            // As Redis has it: an EXEC with arguments ends what it was to execute.
            Err(resp::Refusal::Arity(info)) if info.name == "exec" => {
                if multi.is_watching() {
                    return (at, Stop::Stalled);
                }
                multi.clear();
                answer(order, output, |out| resp::error(multi::EXEC_WITH_ARGUMENTS, out));
                order.end_command();
                at += size;
                continue;
            }
            Err(refusal) => {
                command_name.into_iter().for_each(|name| counter.commands.reject(name));
                refuse(parser.arguments(rest).iter().next().is_some_and(is_watch), multi);
                answer(order, output, |out| refusal.write(out));
                order.end_command();
                at += size;
                continue;
            }
        };
        match request {
            Request::Multi => answer(order, output, |out| {
                if multi.open() { resp::ok(out) } else { resp::error(multi::NESTED, out) }
            }),
            Request::Exec => {
                let arrived = connection.arrivals.of(at + size).unwrap_or(counter.now);
                let past = past(&mut connection.written, connection.likely_size, order);
                let asker =
                    Asker { connection: connection.key.0, arrived, readonly: false, resp3: *resp3, past };
                let waits_for_replies = multi.must_wait() && order.len() > 0;
                let Ok(written) = execute(asker, multi, order, output, counter, scratch) else {
                    connection.waits_until = (!waits_for_replies).then(|| counter.deadline(arrived));
                    return (at, Stop::Stalled);
                };
                connection.written = connection.written.max(written);
            }
            Request::Watch(_) if multi.is_open() => {
                answer(order, output, |out| resp::error(multi::WATCH_INSIDE_MULTI, out));
            }
            Request::Watch(command) => {
                let arrived = connection.arrivals.of(at + size).unwrap_or(counter.now);
                let waits_for_replies = order.len() > 0;
                let past = past(&mut connection.written, connection.likely_size, order);
                let asker =
                    Asker { connection: connection.key.0, arrived, readonly: false, resp3: *resp3, past };
                if watch(asker, multi, order, output, &command, counter).is_err() {
                    connection.waits_until = (!waits_for_replies).then(|| counter.deadline(arrived));
                    return (at, Stop::Stalled);
                }
            }
            Request::Discard | Request::Unwatch | Request::Reset if multi.is_watching() => {
                return (at, Stop::Stalled);
            }
            Request::Discard => {
                let was_open = multi.is_open();
                if was_open {
                    multi.clear();
                }
                answer(order, output, |out| {
                    if was_open { resp::ok(out) } else { resp::error(multi::DISCARD_WITHOUT_MULTI, out) }
                });
            }
            Request::Data(command) if multi.is_open() => {
                let options = &counter.view.options;
                let group = options.routing.group_of_command(&command);
                let has_room = multi.size() <= counter.share.little() || counter.share.free() > 0;
                if !has_room {
                    counter.share.want(counter.now);
                }
                let no_room = (!has_room).then_some(multi::NO_MEMORY);
                let adds = counter.is_data_full && command.may_grow();
                let lack = adds.then_some(CommandError::OutOfMemory.text());
                if let Some(text) = lack.or(no_room) {
                    multi.spoil();
                    answer(order, output, |out| resp::error(text, out));
                } else {
                    let queued = multi.push(&command, group, &options.replica.batch);
                    answer(order, output, |out| match queued {
                        Ok(()) => resp::simple("QUEUED", out),
                        Err(unfit) => write_unfit(unfit, out),
                    });
                }
            }
            _ if multi.is_open() && !matches!(request, Request::Quit | Request::Reset) => {
                multi.spoil();
                answer(order, output, |out| resp::error(multi::NOT_INSIDE_MULTI, out));
            }
            Request::Unwatch => {
                multi.unwatch();
                answer(order, output, resp::ok);
            }
            Request::Data(command) | Request::TimeToLive(command) => {
                let about_time = matches!(request, Request::TimeToLive(_));
                order.set_form(if about_time { Form::TimeToLive } else { Form::Plain });
                let arrived = connection.arrivals.of(at + size).unwrap_or(counter.now);
                let past = past(&mut connection.written, connection.likely_size, order);
                let asker =
                    Asker { connection: connection.key.0, arrived, readonly: *readonly, resp3: *resp3, past };
                if submit(asker, order, output, &command, counter).is_err() {
                    connection.waits_until = Some(counter.deadline(arrived));
                    return (at, Stop::Stalled);
                }
                connection.written = past.written_with(&command);
            }
            Request::Ping(None) => answer(order, output, |out| resp::simple("PONG", out)),
            Request::Ping(Some(message)) | Request::Echo(message) => {
                answer(order, output, |out| resp::bulk(message, out));
            }
            Request::Hello(hello) if !hello.is_granted() => {
                answer(order, output, |out| resp::error(resp::WRONG_PASSWORD, out));
            }
            // Replies that are still to come are in the form that held when they were asked for.
            Request::Hello(hello)
                if order.len() > 0 && hello.version.is_some_and(|version| (version == 3) != *resp3) =>
            {
                return (at, Stop::Stalled);
            }
            Request::Reset if order.len() > 0 => return (at, Stop::Stalled),
            Request::Hello(hello) => {
                apply_hello(&hello, resp3, name);
                let (id, resp3) = (connection.id, *resp3);
                answer(order, output, |out| describe::hello(id, resp3, out));
            }
            Request::Authenticate(user) => answer(order, output, |out| match user {
                None => resp::error(resp::NO_PASSWORD_SET, out),
                Some(user) if resp::is_user(user) => resp::ok(out),
                Some(_) => resp::error(resp::WRONG_PASSWORD, out),
            }),
            Request::Accepted => answer(order, output, resp::ok),
            Request::Quit => {
                answer(order, output, resp::ok);
                return (input.len(), Stop::Close(false));
            }
            Request::Reset => {
                (*resp3, *readonly) = (false, false);
                *name = Vec::new();
                order.reset();
                multi.clear();
                answer(order, output, |out| resp::simple("RESET", out));
            }
            Request::ReadOnly | Request::ReadWrite => {
                *readonly = matches!(request, Request::ReadOnly);
                answer(order, output, resp::ok);
            }
            Request::Command(query) => answer(order, output, |out| query.write(*resp3, out)),
            Request::Info(sections) => {
                let text = describe::info(counter, neighbours, sections);
                answer(order, output, |out| resp::verbatim(&text, *resp3, out));
            }
            Request::ConfigGet(patterns) => {
                answer(order, output, |out| describe::config(counter.view, patterns, *resp3, out));
            }
            Request::ResetStatistics => {
                describe::reset_statistics(counter, neighbours);
                answer(order, output, resp::ok);
            }
            // They tell of what the connection wrote before.
            Request::DbSize | Request::Wait if order.logged() > 0 => return (at, Stop::Stalled),
            Request::DbSize => {
                let keys = describe::keys(counter);
                answer(order, output, |out| resp::integer(keys as i64, out));
            }
            Request::Wait => {
                let others = describe::others_for_certain(counter.view);
                answer(order, output, |out| resp::integer(others as i64, out));
            }
            Request::Persist => answer(order, output, |out| resp::integer(0, out)),
            Request::Time => answer(order, output, describe::time),
            Request::Role => answer(order, output, describe::role),
            Request::Help(container) => answer(order, output, |out| resp::write_help(container, out)),
            Request::Cluster(request) => {
                answer(order, output, |out| topology::cluster(counter, request, *resp3, out));
            }
            Request::Client(request) => match request {
                ClientRequest::SetName(given) => {
                    replace(name, given);
                    answer(order, output, resp::ok);
                }
                ClientRequest::SetLibraryName(given) => {
                    replace(library, given);
                    answer(order, output, resp::ok);
                }
                ClientRequest::SetLibraryVersion(given) => {
                    replace(library_version, given);
                    answer(order, output, resp::ok);
                }
                ClientRequest::Name => answer(order, output, |out| match name.as_slice() {
                    [] => resp::nil(*resp3, out),
                    name => resp::bulk(name, out),
                }),
                ClientRequest::Replies(replies) => {
                    order.hear(replies);
                    if replies == Replies::On {
                        answer(order, output, resp::ok);
                    }
                }
                ClientRequest::Id => {
                    answer(order, output, |out| resp::integer(connection.id as i64, out));
                }
                ClientRequest::List | ClientRequest::Info => {
                    let (list, is_alone) = (request == ClientRequest::List, order.len() == 0);
                    let has_others = list && counter.view.cores() > 1;
                    let arrived = connection.arrivals.of(at + size).unwrap_or(counter.now);
                    if let Some(error) = counter.refusal(arrived).filter(|_| list) {
                        answer(order, output, |out| resp::error(error.text(), out));
                        order.end_command();
                        at += size;
                        continue;
                    }
                    // The texts are long: few at a time, and one per connection.
                    let text_size =
                        if list { counter.view.seats.taken() * describe::CLIENT_LINE_SIZE } else { 0 };
                    let is_busy = has_others && (!is_alone || counter.gatherings.len() >= GATHERINGS_MAX);
                    if is_busy || !counter.grant(text_size, output.size() + order.owed()) {
                        connection.waits_until = Some(counter.deadline(arrived));
                        return (at, Stop::Stalled);
                    }
                    connection.command = if list { "client|list" } else { "client|info" };
                    let mut text = describe::client_line(connection, neighbours.ring, counter.now);
                    if list {
                        let others = describe::client_lines(neighbours.clients, neighbours.ring, counter.now);
                        text.push_str(&others);
                    }
                    let Speech::Resp(speech) = &mut connection.speech else { unreachable!("as above") };
                    let (resp3, order) = (speech.resp3, &mut speech.order);
                    if has_others {
                        order.reserve(text_size);
                        order.set_form(Form::Text);
                        let request = order.begin(Class::Immediate);
                        order.set_form(Form::Plain);
                        counter.list_clients(ReplyTo { connection: connection.key.0, request }, text);
                    } else {
                        answer(order, &mut connection.output, |out| resp::verbatim(&text, resp3, out));
                    }
                }
            },
        }
        if let Speech::Resp(speech) = &mut connection.speech {
            speech.order.end_command();
        }
        if let Some(name) = command_name {
            counter.commands.call(name);
            connection.command = name.info().name;
        }
        *counter.requests += 1;
        at += size;
    }
}

fn is_watch(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"watch")
}

/// A command was refused: what is queued is not executed; nor is what comes, if it was to be guarded by keys that are not watched now.
fn refuse(is_watch: bool, multi: &mut Multi) {
    multi.spoil();
    if is_watch && !multi.is_open() {
        multi.fail();
    }
}

/// How large commands may be, for texts.
fn sizes(limits: &BatchLimits) -> resp::Sizes {
    resp::Sizes {
        value_max: limits.value_size_max,
        command_max: limits.command_size_max,
        argument_count_max: Limits::default().argument_count_max as usize,
    }
}

/// Refuses a command that is too large to be proposed, with the limit that it exceeds.
fn admit<'a>(request: Request<'a>, limits: &BatchLimits) -> Result<Request<'a>, resp::Refusal<'a>> {
    let (Request::Data(command) | Request::TimeToLive(command)) = &request else { return Ok(request) };
    match limits.excess(command) {
        None => Ok(request),
        Some(Excess::Value) => Err(resp::Refusal::ValueSize(limits.value_size_max)),
        Some(Excess::Total) => Err(resp::Refusal::CommandSize(limits.command_size_max)),
    }
}

fn replace(target: &mut Vec<u8>, given: &[u8]) {
    target.clear();
    target.extend_from_slice(given);
}

fn apply_hello(hello: &HelloRequest<'_>, resp3: &mut bool, name: &mut Vec<u8>) {
    if let Some(version) = hello.version {
        *resp3 = version == 3;
    }
    if let Some(given) = hello.name {
        replace(name, given);
    }
}

/// Answers at once, in the request's turn.
fn answer(order: &mut ReplyOrder, output: &mut Output, encode: impl FnOnce(&mut Vec<u8>)) {
    let number = order.begin(Class::Immediate);
    order.complete(number, output, encode);
}

fn write_unfit(unfit: Unfit, out: &mut Vec<u8>) {
    match unfit {
        Unfit::OtherGroup => resp::error(CommandError::CrossSlot.text(), out),
        Unfit::TooLarge(max) => {
            let text = format!(
                "ERR too large: commands between MULTI and EXEC, with the keys that are watched, may have at most {max} bytes together, and \
                 each of their values what value_size_max says; nothing of it is executed"
            );
            resp::error(&text, out);
        }
    }
}

/// EXEC: proposes what is queued, if nothing speaks against it. Returns the length of the longest value that it writes.
fn execute(
    asker: Asker,
    multi: &mut Multi,
    order: &mut ReplyOrder,
    output: &mut Output,
    counter: &mut Counter<'_>,
    scratch: &mut Vec<u8>,
) -> Result<usize, Stalled> {
    let was_open = multi.is_open();
    if was_open && multi.must_wait() && order.len() > 0 {
        return Err(Stalled);
    }
    order.set_form(Form::Plain);
    let mut written = 0;
    let view = counter.view;
    match multi.execution(|group, key| view.changes.of(view.core_of(group), key), scratch) {
        Execution::Refused(text) => answer(order, output, |out| resp::error(text, out)),
        Execution::Changed => answer(order, output, |out| resp::null_array(asker.resp3, out)),
        Execution::Empty => answer(order, output, |out| resp::array(0, out)),
        Execution::Proposed(command) => {
            submit(asker, order, output, &command, counter)?;
            written = command.longest_value();
            multi.proposed(order.last());
        }
    }
    if was_open {
        multi.clear();
    }
    Ok(written)
}

/// WATCH: asks for the values of keys. It waits for all that was asked for before, so that it sees what that did.
fn watch(
    asker: Asker,
    multi: &mut Multi,
    order: &mut ReplyOrder,
    output: &mut Output,
    command: &Command<'_>,
    counter: &mut Counter<'_>,
) -> Result<(), Stalled> {
    if order.len() > 0 {
        return Err(Stalled);
    }
    order.set_form(Form::Plain);
    let Asker { connection, arrived, past, .. } = asker;
    let view = counter.view;
    let group = view.options.routing.group_of_command(command);
    let changes = |group, key: &[u8]| view.changes.of(view.core_of(group), key);
    let watching = match multi.watch(command.value, group, &view.options.replica.batch, changes) {
        Ok(watching) => watching,
        Err(unfit) => {
            multi.fail();
            answer(order, output, |out| write_unfit(unfit, out));
            return Ok(());
        }
    };
    let Some(read) = watching.read() else {
        answer(order, output, resp::ok);
        return Ok(());
    };
    if let Some(error) = counter.refusal(arrived) {
        multi.fail();
        answer(order, output, |out| resp::error(error.text(), out));
        return Ok(());
    }
    let Some(reserved) = counter.reserve(watching.group(), &read, past, output.size() + order.owed()) else {
        return Err(Stalled);
    };
    order.reserve(reserved);
    let request = order.begin(Class::Read);
    let level = submitted_level(view.options.default_read_level);
    match counter.submit(arrived, watching.group(), &read, level, ReplyTo { connection, request }) {
        Ok(()) => multi.asked(request, watching),
        Err(Denial::Busy) => {
            order.cancel_last();
            return Err(Stalled);
        }
        Err(Denial::For(error)) => {
            multi.fail();
            order.complete(request, output, |out| resp::error(error.text(), out));
        }
    }
    Ok(())
}

/// Which way a command takes that cannot be answered on the spot, in a group of that order, behind so many commands that are in the log.
/// A connection's commands take effect in the order in which it sent them, see [`Class`].
fn way_of(command: &Command<'_>, wanted: ReadLevel, group: Order, logged: usize) -> (Class, Level) {
    let needs_log = !command.kind.is_read() || wanted == ReadLevel::Log || group.needs_log(command);
    if needs_log || logged > 0 { (Class::Logged, Level::Log) } else { (Class::Read, submitted_level(wanted)) }
}

/// Who asks, when, and for what kind of answer.
#[derive(Clone, Copy)]
struct Asker {
    connection: u64,
    arrived: Instant,
    readonly: bool,
    resp3: bool,
    past: Past,
}

/// There is no room for a command now, or it has to wait for others of its connection.
struct Stalled;

/// What tells how long replies will be. What was written before is forgotten once all of it is answered.
fn past(written: &mut usize, likely: usize, order: &ReplyOrder) -> Past {
    if order.logged() == 0 {
        *written = 0;
    }
    Past { written: *written, likely, outstanding: order.len() }
}

/// Hands a command to its group.
fn submit(
    asker: Asker,
    order: &mut ReplyOrder,
    output: &mut Output,
    command: &Command<'_>,
    counter: &mut Counter<'_>,
) -> Result<(), Stalled> {
    let Asker { connection, arrived, readonly, resp3, past } = asker;
    let Some(group) = counter.view.options.routing.group_of_command(command) else {
        answer(order, output, |out| resp::error(CommandError::CrossSlot.text(), out));
        return Ok(());
    };
    let reserved = counter.reserve(group, command, past, output.size() + order.owed());
    let read = command.kind.is_read();
    let wanted = counter.view.options.default_read_level;
    if reserved.is_some() && read && (readonly || wanted == ReadLevel::Stale) && order.logged() == 0 {
        let number = order.begin(Class::Immediate);
        let done = counter.read_stale(group, command, |reply: Reply<'_>, _: Option<&Commit>| {
            order.reply(number, &reply, resp3, output);
        });
        if done.is_some() {
            return Ok(());
        }
        order.cancel_last();
    }
    if let Some(error) = counter.refusal_of(arrived, group, command) {
        let is_discarded = command.kind == CommandKind::Exec && error == CommandError::OutOfMemory;
        let before = if is_discarded { multi::DISCARDED } else { "" };
        answer(order, output, |out| resp::error(&format!("{before}{}", error.text()), out));
        return Ok(());
    }
    let Some(reserved) = reserved else { return Err(Stalled) };
    let of_group = counter.view.options.protocols.get(group.index()).map_or(Order::Log, |kind| kind.order());
    let (class, level) = way_of(command, wanted, of_group, order.logged());
    if class == Class::Logged && order.reads() > 0 {
        return Err(Stalled);
    }
    order.reserve(reserved);
    let request = order.begin(class);
    match counter.submit(arrived, group, command, level, ReplyTo { connection, request }) {
        Ok(()) => Ok(()),
        Err(Denial::Busy) => {
            order.cancel_last();
            Err(Stalled)
        }
        Err(Denial::For(error)) => {
            order.complete(request, output, |out| resp::error(error.text(), out));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use panch_wire::command::list;

    use super::*;

    fn way(
        kind: CommandKind,
        keys: &[&[u8]],
        wanted: ReadLevel,
        group: Order,
        logged: usize,
    ) -> (Class, Level) {
        let mut value = Vec::new();
        if kind.has_many_keys() {
            keys.iter().for_each(|key| list::push(&mut value, key));
        }
        way_of(&Command { kind, flags: 0, session: None, key: keys[0], value: &value }, wanted, group, logged)
    }

    #[test]
    fn a_read_of_several_keys_of_a_graph_takes_its_place_in_the_log() {
        let (one, two): (&[&[u8]], &[&[u8]]) = (&[b"a"], &[b"a", b"b"]);
        let logged = (Class::Logged, Level::Log);
        for (wanted, level) in [(ReadLevel::Quorum, Level::Quorum), (ReadLevel::Lease, Level::Lease)] {
            for kind in [CommandKind::MGet, CommandKind::Exists] {
                assert_eq!(way(kind, two, wanted, Order::Graph, 0), logged);
                assert_eq!(way(kind, one, wanted, Order::Graph, 0), (Class::Read, level));
                assert_eq!(way(kind, two, wanted, Order::Log, 0), (Class::Read, level));
            }
            assert_eq!(way(CommandKind::Get, one, wanted, Order::Graph, 0), (Class::Read, level));
            // Behind it every read does.
            assert_eq!(way(CommandKind::Get, one, wanted, Order::Graph, 1), logged);
        }
        assert_eq!(way(CommandKind::Get, one, ReadLevel::Log, Order::Log, 0), logged);
        assert_eq!(way(CommandKind::Del, one, ReadLevel::Quorum, Order::Log, 0), logged);
    }
}
