"""Sessions of coding agents, with requests shaped as theirs are: fields, headers, tools and what they send back.

The shapes were taken from what the agents sent to a server of ours in November 2026 (Codex 0.171, Claude Code 2.1.332,
Qwen Code 0.24, openai-agents 0.24); the words are our own. Each session asks through its agent's client library, which
reads the stream, and does what the answer says with tools that give fixed results.
"""

import anthropic
import openai

RULES = "You are a careful agent that reads, changes and tests code in a folder. " * 6
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SCHEMA = {"type": "object", "properties": {"done": {"type": "string"}}, "required": ["done"]}
ENVIRONMENT = "<environment>\n  <cwd>/project</cwd>\n  <shell>bash</shell>\n</environment>"
RESULT = "Exit code: 0\nWall time: 0.1 seconds\nOutput:\nREADME.md\nsrc\ntests\n"


class Session:
    """One agent at work. `turn` asks once and goes on with what came."""

    thinks = False

    def __init__(self, url, max_tokens, key):
        self.max_tokens, self.number = max_tokens, 0

    def turn(self):
        """(cached tokens, prompt tokens, names of the called tools, text) of one request."""
        self.number += 1
        return self.ask()


class OpenAISession(Session):
    def __init__(self, url, max_tokens, key):
        super().__init__(url, max_tokens, key)
        self.client = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=120)

    def close(self):
        self.client.close()


def joined(events):
    """The items of a streamed response, put together from its pieces; each begins, grows and ends in order."""
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    texts, open_item = [], None
    for event in events[2:-1]:
        if event.type == "response.output_item.added":
            assert open_item is None and event.output_index == len(texts)
            open_item = event.item.id
            texts.append("")
        elif event.type == "response.output_item.done":
            assert event.item.id == open_item
            open_item = None
        else:
            assert event.item_id == open_item
            texts[-1] += event.delta if event.type.endswith(".delta") else ""
    assert open_item is None
    final = events[-1].response
    assert events[-1].type == f"response.{final.status}" and final.status in ("completed", "incomplete")
    own = [item.arguments if item.type == "function_call" else item.content[0].text for item in final.output]
    assert own == texts
    return final


class Codex(OpenAISession):
    """/v1/responses, nothing kept by the server, reasoning only in its sealed form."""

    thinks = True
    tools = (
        {"type": "function", "name": "get_weather", "description": "A", "strict": False, "parameters": PARAMETERS},
        {
            "type": "namespace",
            "name": "agents",
            "description": "Helpers.",
            "tools": [{"type": "function", "name": "spawn", "strict": False, "parameters": PARAMETERS}],
        },
        {
            "type": "custom",
            "name": "apply_patch",
            "description": "Change files.",
            "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch"'},
        },
        {"type": "web_search", "external_web_access": False},
        {"type": "image_generation", "output_format": "png"},
    )

    def __init__(self, url, max_tokens, key):
        super().__init__(url, max_tokens, key)
        developer = {"type": "message", "id": "msg_1", "role": "developer"}
        self.items = [
            developer | {"content": [{"type": "input_text", "text": RULES}]},
            developer | {"content": [{"type": "input_text", "text": "Ask before you write."}]},
            self.said(ENVIRONMENT),
            self.said("Do it."),
            # Of another model, which the session began with.
            {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAABo"},
            {"type": "custom_tool_call", "call_id": "old", "name": "apply_patch", "input": "*** Begin Patch\n"},
            {"type": "custom_tool_call_output", "call_id": "old", "output": "Done!"},
            {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}},
        ]

    @staticmethod
    def said(text):
        return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}

    def ask(self):
        stream = self.client.responses.create(
            model="scripted",
            input=self.items,
            tools=self.tools,
            tool_choice="auto",
            parallel_tool_calls=True,
            reasoning={"effort": "low", "summary": "auto"},
            text={"verbosity": "low"},
            store=False,
            include=["reasoning.encrypted_content"],
            prompt_cache_key="01a2282d",
            service_tier="auto",
            stream=True,
            max_output_tokens=self.max_tokens,
            extra_body={"client_metadata": {"turn_id": str(self.number), "session_id": "01a2282d"}},
            extra_headers={"originator": "codex_exec", "session-id": "01a2282d", "x-codex-window-id": "01a2282d:0"},
        )
        final = joined(list(stream))
        calls = [item for item in final.output if item.type == "function_call"]
        for item in final.output:
            if item.type == "reasoning":
                sealed = {"type": "reasoning", "summary": [], "encrypted_content": item.encrypted_content}
                self.items.append(sealed)
            elif item.type == "message":
                content = [{"type": "output_text", "text": item.content[0].text}]
                self.items.append({"type": "message", "role": "assistant", "content": content})
            else:
                own = item.model_dump(include={"type", "name", "namespace", "arguments", "call_id"}, exclude_none=True)
                self.items.append(own)
        for item in calls:
            output = [{"type": "input_text", "text": RESULT}]
            if self.number == 5:
                output.append({"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="})
            self.items.append({"type": "function_call_output", "call_id": item.call_id, "output": output})
        if not calls:
            self.items.append(self.said(f"And then? You have said {self.number} things, and the tests still fail."))
        names = [f"{item.namespace}__{item.name}" if item.namespace else item.name for item in calls]
        usage = final.usage
        return usage.input_tokens_details.cached_tokens, usage.input_tokens, names, final.output_text


class OpenAIAgents(OpenAISession):
    """/v1/responses as openai-agents asks it: every item as it came, an output schema beside the tools."""

    tools = ({"type": "function", "name": "get_weather", "description": "A", "strict": True, "parameters": PARAMETERS},)

    def __init__(self, url, max_tokens, key):
        super().__init__(url, max_tokens, key)
        self.items = [{"role": "user", "content": "Do it."}]

    def ask(self):
        form = {"type": "json_schema", "name": "final_output", "schema": SCHEMA, "strict": True}
        final = self.client.responses.create(
            model="scripted",
            instructions=RULES,
            input=self.items,
            tools=self.tools,
            include=[],
            max_output_tokens=self.max_tokens,
            extra_headers={"user-agent": "Agents/Python 0.24.0"},
            **({"text": {"format": form}} if self.number % 2 else {}),
        )
        self.items += [item.model_dump(exclude_unset=True) for item in final.output]
        calls = [item for item in final.output if item.type == "function_call"]
        self.items += [{"call_id": own.call_id, "output": RESULT, "type": "function_call_output"} for own in calls]
        if not calls:
            self.items.append({"role": "user", "content": f"And then? That was answer {self.number} of many to come."})
        usage = final.usage
        names = [item.name for item in calls]
        return usage.input_tokens_details.cached_tokens, usage.input_tokens, names, final.output_text


class QwenCode(OpenAISession):
    """/v1/chat/completions, streamed, parts in every message."""

    tools = ({"type": "function", "function": {"name": "get_weather", "description": "A", "parameters": PARAMETERS}},)

    def __init__(self, url, max_tokens, key):
        super().__init__(url, max_tokens, key)
        self.messages = [
            {"role": "system", "content": RULES},
            self.said(ENVIRONMENT),
            {"role": "assistant", "content": "Got it."},
            self.said("Do it."),
        ]

    @staticmethod
    def said(text):
        return {"role": "user", "content": [{"type": "text", "text": text}]}

    def ask(self):
        chunks = list(
            self.client.chat.completions.create(
                model="scripted",
                messages=self.messages,
                stream=True,
                stream_options={"include_usage": True},
                tools=self.tools,
                max_tokens=self.max_tokens,
                extra_headers={"user-agent": "QwenCode/0.24.4 (linux; x64)"},
            )
        )
        assert len({chunk.id for chunk in chunks}) == 1 and chunks[-1].usage is not None and not chunks[-1].choices
        text, calls, reasons = "", [], []
        for chunk in chunks[:-1]:
            (choice,) = chunk.choices
            reasons.append(choice.finish_reason)
            text += choice.delta.content or ""
            for call in choice.delta.tool_calls or ():
                if call.index == len(calls):
                    calls.append({"id": call.id, "type": "function", "function": {"name": call.function.name}})
                    calls[-1]["function"]["arguments"] = ""
                calls[call.index]["function"]["arguments"] += call.function.arguments or ""
        assert [reason for reason in reasons if reason] == reasons[-1:]
        answer = {"role": "assistant", "content": text or None}
        self.messages.append(answer | ({"tool_calls": calls} if calls else {}))
        for call in calls:
            content = [{"type": "text", "text": RESULT}]
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
        if not calls:
            self.messages.append(self.said(f"And then? You have said {self.number} things, and the tests still fail."))
        usage = chunks[-1].usage
        names = [call["function"]["name"] for call in calls]
        return usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens, names, text


class ClaudeCode(Session):
    """/v1/messages?beta=true: a bill that changes, marks for the cache that wander, tools that are found later."""

    thinks = True
    headers = {  # noqa: RUF012
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,advanced-tool-use-2025-11-20",
        "x-app": "cli",
        "user-agent": "claude-cli/2.1.332 (external, cli)",
    }

    def __init__(self, url, max_tokens, key):
        super().__init__(url, max_tokens, key)
        self.client = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=120)
        self.tools = [self.tool("ToolSearch"), self.tool("Bash"), self.tool("Placeholder", defer_loading=True)]
        reminder = {"type": "text", "text": "<system-reminder>\nBranch: main\n</system-reminder>"}
        self.messages = [
            {"role": "user", "content": [reminder, {"type": "text", "text": "Do it."}]},
            {"role": "system", "content": [{"type": "text", "text": ENVIRONMENT}]},
        ]

    @staticmethod
    def tool(name, **more):
        return {"name": name, "description": "A", "input_schema": PARAMETERS} | more

    def close(self):
        self.client.close()

    @property
    def system(self):
        bill = f"x-anthropic-billing-header: cc_version=2.1.332.0b8; cc_entrypoint=cli; cch={self.number:05x};"
        mark = {"cache_control": {"type": "ephemeral"}}
        return [{"type": "text", "text": bill}, {"type": "text", "text": RULES} | mark]

    def ask(self):
        last = self.messages[-1]["content"]
        last[-1] = last[-1] | {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
        search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
        fields = {
            "model": "scripted",
            "system": self.system,
            "messages": self.messages,
            "tools": [*self.tools, search],
            "thinking": {"type": "adaptive", "display": "updates"},
        }
        more = {
            "output_config": {"effort": "high"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        }
        sent = {"extra_headers": self.headers, "extra_query": {"beta": "true"}, "extra_body": more}
        with self.client.messages.stream(
            **fields, **sent, max_tokens=self.max_tokens, metadata={"user_id": '{"session_id":"8ebce892"}'}
        ) as stream:
            for _ in stream:
                pass
            final = stream.get_final_message()
        counted = self.client.messages.count_tokens(**fields, **sent).input_tokens
        read = final.usage.cache_read_input_tokens
        assert counted == final.usage.input_tokens + read
        last[-1] = {name: value for name, value in last[-1].items() if name != "cache_control"}
        self.messages.append({"role": "assistant", "content": [self.kept(block) for block in final.content]})
        calls = [block for block in final.content if block.type == "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": own.id, "content": self.result(own.name)} for own in calls]
        followed = {"type": "text", "text": f"And then? You have said {self.number} things, and the tests still fail."}
        self.messages.append({"role": "user", "content": results or [followed]})
        text = "".join(block.text for block in final.content if block.type == "text")
        return read, counted, [own.name for own in calls], text

    @staticmethod
    def kept(block):
        fields = {"text": ("text",), "thinking": ("thinking", "signature"), "tool_use": ("id", "name", "input")}
        return {"type": block.type} | {name: getattr(block, name) for name in fields[block.type]}

    def result(self, name):
        if name == "ToolSearch":
            self.tools.insert(1, self.tool("get_weather", defer_loading=True))
            return [{"type": "tool_reference", "tool_name": "get_weather"}]
        picture = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
        return [{"type": "image", "source": picture}, {"type": "text", "text": RESULT}] if self.number == 5 else RESULT
