// Calls with the Vercel AI SDK: a line of JSON says which, and a line of JSON says what came of it.

import { createInterface } from 'node:readline';
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { generateText, jsonSchema, Output, stepCountIs, streamText, tool } from 'ai';

globalThis.AI_SDK_LOG_WARNINGS = false;

const models = {
  chat: ({ url, model }) => createOpenAI({ baseURL: `${url}/v1`, apiKey: 'sk-client' }).chat(model),
  responses: ({ url, model }) => createOpenAI({ baseURL: `${url}/v1`, apiKey: 'sk-client' }).responses(model),
  messages: ({ url, model }) => createAnthropic({ baseURL: `${url}/v1`, apiKey: 'sk-ant-client' })(model),
};

const paths = jsonSchema({
  type: 'object',
  properties: { path: { type: 'string' } },
  required: ['path'],
  additionalProperties: false,
});
const weather = jsonSchema({
  type: 'object',
  properties: { city: { type: 'string' }, degrees: { type: 'integer' } },
  required: ['city', 'degrees'],
  additionalProperties: false,
});

const told = { read_file: tool({ inputSchema: paths }), delete_file: tool({ inputSchema: paths }) };
const done = { read_file: tool({ inputSchema: paths, execute: async ({ path }) => `read ${path}` }) };

function settings(asked) {
  return {
    model: models[asked.format](asked),
    prompt: asked.prompt,
    maxOutputTokens: 64,
    maxRetries: asked.retries ?? 0,
    abortSignal: AbortSignal.timeout(asked.timeout_ms),
    ...(asked.wants === 'steps' ? { tools: done, stopWhen: stepCountIs(3) } : {}),
    ...(asked.wants === 'tools' ? { tools: told } : {}),
    ...(asked.wants === 'object' ? { output: Output.object({ schema: weather }) } : {}),
  };
}

function failureOf(error) {
  const last = error?.lastError ?? error;
  const message = last?.message ?? JSON.stringify(last);
  return { kind: last?.name ?? typeof last, status: last?.statusCode ?? null, message };
}

function account(parts) {
  return { text: '', tools: [], thinking: '', stop: null, failure: null, object: null, ...parts };
}

function tools(calls) {
  return calls.map(({ toolName, input }) => [toolName, input]);
}

async function generate(asked) {
  try {
    const result = await generateText(settings(asked));
    return account({
      text: result.text,
      tools: tools(result.toolCalls),
      thinking: result.reasoningText ?? '',
      stop: result.finishReason,
      object: asked.wants === 'object' ? result.output : null,
    });
  } catch (error) {
    return account({ failure: failureOf(error) });
  }
}

async function stream(asked) {
  const heard = account({});
  const leaving = new AbortController();
  try {
    const common = settings(asked);
    const abortSignal = AbortSignal.any([common.abortSignal, leaving.signal]);
    const result = streamText({ ...common, abortSignal, onError: () => {} });
    for await (const part of result.fullStream) {
      if (part.type === 'start-step') heard.text = '';
      if (part.type === 'text-delta') heard.text += part.text;
      if (part.type === 'reasoning-delta') heard.thinking += part.text;
      if (part.type === 'tool-call') heard.tools.push([part.toolName, part.input]);
      if (part.type === 'finish') heard.stop = part.finishReason;
      if (part.type === 'error') heard.failure ??= failureOf(part.error);
      if (part.type === 'abort') heard.failure ??= { kind: 'abort', status: null, message: '' };
      if (asked.leaves && part.type === 'text-delta') leaving.abort();
    }
    if (asked.wants === 'object') heard.object = await result.output;
  } catch (error) {
    heard.failure ??= failureOf(error);
  }
  return heard;
}

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const came = await (asked.streaming ? stream(asked) : generate(asked));
  process.stdout.write(JSON.stringify(came) + '\n');
}
