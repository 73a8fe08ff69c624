"""What the systems before this one did, row by row, and the tests that show what this one does instead.

P are the endpoints of a chat back end over Redis streams, R is a Redis conversation store, M a multi-turn session
manager, V a voice session API. A row names what it is about; the tests say what must hold.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SESSIONS = "contract/test_contract_sessions.py"
PLACES = "contract/test_contract_places.py"
GHOSTS = "contract/test_contract_ghosts.py"
MEMORY = "contract/test_contract_memory.py"
REDIS = "contract/test_contract_redis.py"
TASKS = "contract/test_contract_tasks.py"
PYTHON = "http/test_sessions_in_python.py"
HTTP = "http/test_http_sessions.py"
HTTP_TASKS = "http/test_http_tasks.py"
ACCESS = "http/test_http_access.py"
HOSTS = "http/test_http_hosts.py"
OUTAGES = "http/test_http_outages.py"
FALLBACK = "http/test_http_fallback.py"
KEYS = "http/test_http_keys.py"
CODEC = "test_codec.py"
CONTENDERS = "processes/test_contenders.py"
SOCKETS = "sockets/test_servers.py"
CONVERSATIONS = "http/test_http_conversations.py"
STREAMS = "http/test_http_streams.py"
EXISTING = "http/test_http_existing.py"
FOUND = "contract/test_contract_existing.py"

ROWS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "P1": (
        "six fields and four, times in ms",
        [
            (CONVERSATIONS, "test_active_session_has_exactly_its_six_keys"),
            (CONVERSATIONS, "test_task_status_has_exactly_its_four_keys"),
        ],
    ),
    "P2": (
        "404 with exactly two texts",
        [(CONVERSATIONS, "test_an_unknown_conversation_is_404_with_exactly_this_body")],
    ),
    "P3": (
        "times are recorded, the end is computed or null",
        [
            (EXISTING, "test_times_are_those_of_the_entries_and_no_estimate_is_made_up"),
            (EXISTING, "test_a_trimmed_session_began_when_its_first_entry_was_made"),
        ],
    ),
    "P4": (
        "the cursor is the last id, 0-0 of an empty stream",
        [(EXISTING, "test_the_cursor_is_the_last_id_and_0_0_of_an_empty_stream")],
    ),
    "P5": (
        "each state has its word; queued counts as active",
        [
            (CONVERSATIONS, "test_each_state_of_a_task_has_its_word"),
            (EXISTING, "test_each_raw_status_in_each_form"),
        ],
    ),
    "P6": (
        "other programs' sessions are seen at once, in every status; only their cancel key is written",
        [
            (EXISTING, "test_a_session_is_seen_at_once_without_any_change_to_its_program"),
            (EXISTING, "test_what_was_there_before_this_process_is_found"),
            (EXISTING, "test_each_raw_status_in_each_form"),
            (EXISTING, "test_nothing_of_theirs_is_ever_written_but_the_cancel_key"),
        ],
    ),
    "P7": (
        "no search among the keys, and no id is a pattern",
        [
            (EXISTING, "test_no_id_is_a_pattern"),
            (EXISTING, "test_keys_are_scanned_once_and_never_searched_by_a_request"),
            (FOUND, "test_among_a_hundred_thousand_a_new_session_is_seen_at_once_and_nothing_is_searched_for"),
        ],
    ),
    "P8": (
        "the most recent session, by number",
        [
            (EXISTING, "test_the_most_recent_session_is_found_by_number"),
            (EXISTING, "test_what_runs_comes_before_what_was_written_to_later"),
        ],
    ),
    "P9": (
        "ids are whole, nobody sees another's, and a key of another type breaks nothing",
        [
            (EXISTING, "test_ids_are_taken_whole_whatever_they_hold"),
            (EXISTING, "test_a_conversation_never_sees_anothers_session_whose_name_begins_with_its_own"),
            (EXISTING, "test_a_name_with_two_readings_and_nothing_that_decides_is_shown_to_nobody"),
            (EXISTING, "test_a_key_of_another_type_is_left_alone_counted_and_logged_once"),
        ],
    ),
    "P10": (
        "503, 401, 403 and 404 each for its cause",
        [
            (OUTAGES, "test_the_app_starts_and_the_first_request_says_503_soon"),
            (ACCESS, "test_whom_nobody_knows_is_401_before_anything_is_read"),
            (ACCESS, "test_a_refused_conversation_is_403_before_anything_is_read"),
            (FOUND, "test_without_the_right_to_read_them_it_is_503_and_never_404"),
        ],
    ),
    "P11": (
        "bytes whatever the options say, and one client for all requests",
        [
            (EXISTING, "test_one_client_for_all_requests"),
            ("test_addresses.py", "test_an_option_that_would_be_ignored_is_refused"),
        ],
    ),
    "P12": (
        "a status that has expired ends nothing",
        [
            (EXISTING, "test_a_long_run_whose_status_has_expired_goes_on"),
            (EXISTING, "test_an_ended_run_whose_status_has_expired_is_told_by_its_end"),
            (EXISTING, "test_a_run_without_a_status_that_fell_silent_is_lost"),
        ],
    ),
    "P13": (
        "an answer is of one moment",
        [
            (EXISTING, "test_no_answer_is_half_of_one_moment_and_half_of_the_next"),
            (EXISTING, "test_own_and_other_sessions_are_read_in_one_round_trip"),
        ],
    ),
    "P14": (
        "entries are read as they are, and pass for no frame of ours",
        [
            (EXISTING, "test_entries_are_read_as_they_are"),
            (EXISTING, "test_an_entry_that_cannot_be_read_is_passed_on_as_what_it_is"),
            (EXISTING, "test_no_entry_passes_for_a_frame_of_ours"),
        ],
    ),
    "P15": (
        "a cursor is exclusive, one past the end is a gap, a bad one is refused",
        [
            (EXISTING, "test_a_cursor_is_exclusive_wherever_it_is"),
            (STREAMS, "test_every_cursor_resumes_to_the_same_text"),
            (STREAMS, "test_a_cursor_that_is_none_is_422"),
        ],
    ),
    "P16": (
        "a reload without a cursor gets the text from its begin, and what comes",
        [
            (EXISTING, "test_without_a_cursor_a_reload_gets_the_text_from_its_begin"),
            (EXISTING, "test_a_follower_hears_of_each_entry_within_a_moment"),
        ],
    ),
    "P17": (
        "a stop is a request; what was deleted stays deleted",
        [
            (EXISTING, "test_a_stop_is_a_request_that_the_program_sees"),
            (EXISTING, "test_a_stop_again_is_the_same_answer_from_any_process"),
            (EXISTING, "test_keys_that_the_program_deletes_end_the_stream_and_stay_deleted"),
            (SESSIONS, "test_nothing_brings_a_deleted_session_back"),
        ],
    ),
    "P18": (
        "server-sent events with ids and an end, which the old page can read, too",
        [
            (EXISTING, "test_the_frames_are_server_sent_events_that_the_old_page_can_read_too"),
            (STREAMS, "test_control_frames_hold_no_key_message"),
        ],
    ),
    "P19": (
        "what was trimmed shows as a gap",
        [
            (EXISTING, "test_entries_that_were_trimmed_past_a_cursor_show_as_a_gap"),
            (EXISTING, "test_holes_between_ids_are_no_gap"),
            (STREAMS, "test_what_was_trimmed_shows_as_a_gap"),
        ],
    ),
    "P20": (
        "quick among many, in bounded steps, with several viewers of one conversation",
        [
            (FOUND, "test_among_a_hundred_thousand_a_new_session_is_seen_at_once_and_nothing_is_searched_for"),
            (EXISTING, "test_of_very_many_sessions_of_one_conversation_the_latest_is_found"),
            (EXISTING, "test_followers_of_a_session_share_what_is_read"),
        ],
    ),
    "P21": (
        "everybody is known, and may see the conversation, before anything is read",
        [
            (ACCESS, "test_whom_nobody_knows_is_401_before_anything_is_read"),
            (ACCESS, "test_a_refused_conversation_is_403_before_anything_is_read"),
            (EXISTING, "test_a_rule_decides_who_sees_them"),
            (FOUND, "test_hosts_with_owners_must_say_who_may_see_what_has_none"),
        ],
    ),
    "R1": (
        "created empty or with metadata and stored at once; got, listed, deleted; the store is chosen",
        [
            (PYTHON, "test_a_created_session_is_stored_at_once_with_what_it_was_given"),
            (SESSIONS, "test_a_created_session_is_found_with_all_it_was_given"),
            ("test_config.py", "test_the_defaults_are_the_contracts"),
        ],
    ),
    "R2": (
        "the TTL slides with writes and not with reads; what is missing is None",
        [
            (SESSIONS, "test_writes_slide_the_expiry_and_reads_do_not"),
            (SESSIONS, "test_an_unknown_session_is_none_everywhere"),
            (PYTHON, "test_writes_keep_a_session_and_reads_do_not"),
        ],
    ),
    "R3": (
        "an unreadable record is logged and counted, and breaks only its own id",
        [
            (REDIS, "test_an_unreadable_session_breaks_only_its_own_id"),
            (REDIS, "test_an_unreadable_session_leaves_its_neighbours_in_the_conversation"),
        ],
    ),
    "R4": (
        "missing optional fields are tolerated, what is not ASCII is kept",
        [
            (CODEC, "test_missing_optional_fields_are_tolerated"),
            ("test_models.py", "test_json_is_compact_and_keeps_what_is_not_ascii"),
        ],
    ),
    "R5": (
        "concurrent writers lose nothing, a deleted session stays deleted, turns are bounded",
        [
            (CONTENDERS, "test_sixteen_processes_write_five_hundred_turns_each_in_one_order"),
            (CONTENDERS, "test_a_delete_in_the_middle_ends_all_writers_and_nothing_comes_back"),
            (SESSIONS, "test_nothing_brings_a_deleted_session_back"),
            (SESSIONS, "test_only_the_last_turns_are_kept_and_positions_stay"),
        ],
    ),
    "R6": (
        "ids are UUIDs and prefixes are not shared",
        [
            (PYTHON, "test_a_session_of_nothing_has_a_conversation_of_its_own_and_the_default_language"),
            (REDIS, "test_stores_with_other_prefixes_share_nothing"),
        ],
    ),
    "R7": (
        "roles are checked, times are ms",
        [
            (PYTHON, "test_a_turn_of_no_known_role_is_refused_and_nothing_is_stored"),
            (SESSIONS, "test_turns_get_a_position_and_the_stores_time"),
        ],
    ),
    "R8": (
        "the listing is one's own, ordered, paged, and searches among no keys",
        [
            (PLACES, "test_what_runs_is_listed_by_its_last_event"),
            (PLACES, "test_a_thousand_and_more_of_one_moment_are_listed_page_by_page"),
            (SESSIONS, "test_a_listing_holds_only_ones_own_newest_activity_first"),
            (REDIS, "test_nothing_is_searched_for_among_the_keys"),
        ],
    ),
    "R9": (
        "a delete says whether there was one; summaries have id, count, created, activity",
        [
            (PYTHON, "test_what_is_deleted_is_gone_and_nothing_brings_it_back"),
            (HTTP, "test_the_listing_is_a_bare_array_of_summaries"),
        ],
    ),
    "M1": (
        "a turn's fields, the session's slots, template and language",
        [
            (SESSIONS, "test_a_turn_keeps_all_that_it_holds"),
            (PYTHON, "test_a_question_and_its_answer_are_one_step"),
            (PYTHON, "test_a_session_of_nothing_has_a_conversation_of_its_own_and_the_default_language"),
        ],
    ),
    "M2": (
        "the user's slots merge and can be cleared; previous turn; history with the resolved question",
        [
            (PYTHON, "test_the_users_slots_merge_and_none_clears_one"),
            (PYTHON, "test_the_previous_user_turn_is_found_however_long_ago"),
            (PYTHON, "test_the_history_is_the_last_six_with_the_resolved_questions"),
        ],
    ),
    "M3": (
        "history for a library that is installed",
        [("integrations/test_dspy.py", "test_answered_questions_become_messages_under_the_names_of_the_signature")],
    ),
    "M4": (
        "get or create gives all one session; a question and its answer are one step; a client chooses no id",
        [
            (PYTHON, "test_of_those_who_get_or_create_at_once_all_get_one"),
            (PYTHON, "test_get_or_create_never_hands_out_somebody_elses_session"),
            (SESSIONS, "test_turns_given_as_one_step_stay_together_among_concurrent_writers"),
            (HTTP, "test_a_client_cannot_choose_the_sessions_id"),
        ],
    ),
    "M5": ("all of it is configured", [("test_config.py", "test_texts_of_the_environment_are_read_as_numbers")]),
    "M6": (
        "the least recently used goes first, never what runs; expiry slides",
        [
            (MEMORY, "test_the_least_recently_used_session_goes_first"),
            (MEMORY, "test_a_session_with_a_live_task_is_never_evicted"),
            (MEMORY, "test_a_store_full_of_live_sessions_refuses"),
        ],
    ),
    "M7": (
        "there is one source of truth",
        [
            (REDIS, "test_what_one_process_writes_another_reads"),
            (SESSIONS, "test_an_expired_session_is_gone_everywhere_at_the_same_moment"),
        ],
    ),
    "M8": (
        "a store that is away is no miss",
        [
            (REDIS, "test_a_server_that_is_away_is_unavailable_and_never_unknown"),
            (OUTAGES, "test_the_app_starts_and_the_first_request_says_503_soon"),
        ],
    ),
    "M9": (
        "no silent way out into memory: it is asked for, said, and handed over; secrets are never logged",
        [
            (REDIS, "test_the_first_failure_is_logged_once_and_holds_no_secret"),
            (OUTAGES, "test_a_uri_that_cannot_be_one_stops_the_start_and_is_not_repeated"),
            (FALLBACK, "test_every_response_of_the_blueprint_says_so_and_no_other"),
            (FALLBACK, "test_without_the_setting_it_is_503_as_ever"),
            ("test_fallback_store.py", "test_it_starts_without_a_redis_and_hands_over_once_there_is_one"),
            (
                "test_fallback_store.py",
                "test_the_log_says_when_it_switches_and_when_it_is_back_once_each_and_no_secret",
            ),
            ("faults/test_fallback.py", "test_whatever_was_answered_while_redis_was_away_is_in_redis_exactly_once"),
        ],
    ),
    "M10": (
        "what was counted, by all processes",
        [
            (PLACES, "test_what_several_stores_count_comes_together"),
            (CONTENDERS, "test_what_processes_counted_is_exact_once_they_have_ended"),
            (HTTP, "test_the_operators_figures_are_closed_until_the_host_opens_them"),
        ],
    ),
    "M11": (
        "what is returned is frozen",
        [
            (PYTHON, "test_what_it_returns_is_frozen"),
            (MEMORY, "test_what_it_returns_does_not_change_afterwards"),
        ],
    ),
    "M12": (
        "state belongs to an app; start and stop can be repeated",
        [
            (HOSTS, "test_two_apps_in_one_process_share_nothing"),
            ("test_extension.py", "test_an_app_that_was_shut_down_can_be_used_again"),
        ],
    ),
    "M13": ("accesses are counted", [(HTTP, "test_a_read_is_counted_and_written_with_the_beat")]),
    "V1": ("POST makes a session: 201 and Location", [(HTTP, "test_a_session_is_made_with_all_it_was_given")]),
    "V2": (
        "a wrong key is 401, and the key is wanted afterwards",
        [
            (KEYS, "test_a_key_is_asked_of_the_host_when_a_session_is_made"),
            (KEYS, "test_every_route_of_the_session_wants_the_key"),
        ],
    ),
    "V3": (
        "429 at the maximum of a namespace's live sessions, exactly, over all processes",
        [
            (HTTP, "test_a_full_namespace_is_429_with_retry_after"),
            (CONTENDERS, "test_of_a_hundred_contenders_in_ten_processes_exactly_five_get_a_place"),
            (CONTENDERS, "test_a_place_that_a_killed_process_took_is_nobodys_and_comes_back"),
            (GHOSTS, "test_what_has_expired_is_gone_from_its_namespace_with_the_next_session"),
        ],
    ),
    "V4": (
        "the socket's address as ProxyFix was told to trust it",
        [
            ("http/test_http_websocket.py", "test_each_session_tells_where_its_socket_is"),
            ("http/test_http_websocket.py", "test_the_url_of_any_id_is_encoded_and_leads_back_to_it"),
        ],
    ),
    "V5": (
        "the connect deadline is enforced",
        [
            ("sockets/test_clock.py", "test_a_session_that_nobody_connects_to_is_over_at_the_deadline"),
            ("sockets/test_clock.py", "test_connecting_lifts_the_deadline_and_closing_does_not_end_the_session"),
        ],
    ),
    "V6": (
        "what is unknown or has expired is 404",
        [(SESSIONS, "test_an_expired_session_is_gone_everywhere_at_the_same_moment")],
    ),
    "V7": (
        "a delete ends the session with its tasks",
        [
            (HTTP, "test_a_deleted_session_is_closed_and_gone"),
            (SESSIONS, "test_earlier_finished_tasks_are_deleted_with_their_session"),
            (SOCKETS, "test_a_deleted_session_closes_its_sockets_after_an_end_frame"),
        ],
    ),
    "V8": (
        "tasks by state, paged, and their results",
        [
            (HTTP_TASKS, "test_a_task_has_exactly_its_fields"),
            (HTTP_TASKS, "test_tasks_can_be_had_by_state"),
            (HTTP_TASKS, "test_a_result_is_served_as_it_was_given"),
        ],
    ),
    "V9": (
        "figures without personal data; audio chunks are counted",
        [
            (HTTP, "test_stats_hold_no_personal_data"),
            (SOCKETS, "test_chunks_are_counted_when_they_come_and_when_they_are_handled"),
        ],
    ),
    "V10": ("everything is its owner's", [(ACCESS, "test_somebody_elses_is_answered_as_unknown")]),
    "V11": ("the log cuts ids short", [("test_logs.py", "test_the_log_holds_no_whole_id")]),
    "V12": (
        "several workers see the same; an absolute age limit",
        [
            (REDIS, "test_what_one_process_writes_another_reads"),
            (SESSIONS, "test_a_session_is_over_at_its_maximum_age_whatever_is_written"),
        ],
    ),
    "V13": (
        "states change only as they may",
        [
            ("test_models.py", "test_an_end_stays_and_lost_is_never_written"),
            (TASKS, "test_a_finished_task_cannot_be_overwritten"),
        ],
    ),
    "V14": (
        "a socket: events out, JSON and chunks in, refused before it is accepted",
        [
            (SOCKETS, "test_one_socket_gets_one_task_after_the_other_with_the_cursors_of_their_streams"),
            (SOCKETS, "test_json_and_chunks_are_heard_and_answered_each_in_its_turn"),
            (SOCKETS, "test_refusals_are_http_statuses_with_the_usual_bodies"),
        ],
    ),
}


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS)
def test_each_row_is_shown_by_tests_that_are_there(row: str) -> None:
    _, shown_by = ROWS[row]
    assert shown_by
    assert [(file, name) for file, name in shown_by if name not in names_in(file)] == []


def test_no_row_is_left_out() -> None:
    wanted = (
        [f"P{n}" for n in range(1, 22)]
        + [f"R{n}" for n in range(1, 10)]
        + [f"M{n}" for n in range(1, 14)]
        + [f"V{n}" for n in range(1, 15)]
    )
    assert list(ROWS) == wanted
