// A complete receiver of the relay's callbacks in C# 5 for .NET Framework 4.5 to 4.8 and Mono, without packages.
//
//   csc /r:System.Runtime.Serialization.dll Receiver.cs        (Mono: mcs instead of csc; Windows has csc in
//                                                               C:\Windows\Microsoft.NET\Framework64\v4.0.30319)
//   set WEBHOOK_SECRET=whsec_...
//   Receiver.exe [127.0.0.1:3000 [receiver-data]]              (Mono: mono Receiver.exe ...)
//
// For another address than 127.0.0.1 Windows wants, once: netsh http add urlacl url=http://+:3000/ user=NAME
//
// WEBHOOK_SECRET may hold several secrets, separated by spaces: the new and the old one while they are exchanged.
// In ASP.NET, call Verify and Receive from a handler of yours (IHttpHandler, a controller), with the bytes of the body
// as they came: Request.InputStream, or Request.Content.ReadAsByteArrayAsync().

using System;
using System.Collections.Generic;
using System.IO;
using System.Net;
using System.Net.Sockets;
using System.Runtime.Serialization;
using System.Runtime.Serialization.Json;
using System.Security.Cryptography;
using System.Text;
using System.Text.RegularExpressions;
using System.Threading;

/// <summary>The part of an event that this receiver uses; api/schemas has all of it.</summary>
[DataContract]
public class Event
{
    [DataMember(Name = "type")] public string Type;
    [DataMember(Name = "site")] public string Site;
    [DataMember(Name = "subject")] public string Subject;
    [DataMember(Name = "sequence")] public string Sequence;
    [DataMember(Name = "test")] public bool Test;
    [DataMember(Name = "data")] public EventData Data;

    /// <summary>Returns the event in a body, or null if it is none.</summary>
    public static Event Parse(byte[] body)
    {
        try
        {
            var serializer = new DataContractJsonSerializer(typeof(Event));
            var parsed = (Event)serializer.ReadObject(new MemoryStream(body));
            return parsed == null || parsed.Type == null || parsed.Subject == null ? null : parsed;
        }
        catch (SerializationException)
        {
            return null;
        }
    }
}

[DataContract]
public class EventData
{
    [DataMember(Name = "order")] public Order Order;
}

[DataContract]
public class Order
{
    [DataMember] public string OrderReference;
    [DataMember] public string Status;
}

public class Receiver
{
    const string Path = "/hooks/audatex";
    const int LargestBody = 16 * 1024 * 1024;
    const int Tolerance = 5 * 60; // seconds between the time of the attempt and our clock

    static readonly DateTime Epoch = new DateTime(1970, 1, 1, 0, 0, 0, DateTimeKind.Utc);

    readonly List<byte[]> secrets = new List<byte[]>();
    readonly Store store;
    readonly AutoResetEvent toDo = new AutoResetEvent(true);

    public Receiver(string secrets, Store store)
    {
        foreach (var text in secrets.Split(new[] { ' ' }, StringSplitOptions.RemoveEmptyEntries))
        {
            if (text.StartsWith("whsec_", StringComparison.Ordinal))
            {
                this.secrets.Add(Convert.FromBase64String(text.Substring("whsec_".Length)));
            }
        }
        this.store = store;
    }

    /// <summary>Your part: brings the order in your system to this state. It may be called twice for one event.
    /// </summary>
    static void Handle(Event e)
    {
        Console.WriteLine("{0} {1} {2} {3}", e.Type, e.Site, e.Data.Order.OrderReference, e.Data.Order.Status);
    }

    /// <summary>Stores a verified event if it is new, and returns the status to answer with.</summary>
    public int Receive(byte[] body)
    {
        var e = Event.Parse(body);
        if (e == null)
        {
            return 400;
        }
        if (e.Test)
        {
            return 204; // a test of the callback: nothing happened to an order
        }
        if (!e.Type.StartsWith("audatex.parts.order.", StringComparison.Ordinal))
        {
            Console.Error.WriteLine("{0} {1}", e.Type, e.Subject); // what the relay reports of itself, if asked to
            return 204;
        }
        if (!Regex.IsMatch(e.Subject, @"^[0-9a-f-]{1,64}\z") || !Regex.IsMatch(e.Sequence ?? "", @"^[0-9]{16}\z"))
        {
            return 400;
        }
        if (store.StoreIfNewer(e, body))
        {
            toDo.Set();
        }
        return 204; // stored, or known already. The work comes later: the relay waits for this answer
    }

    /// <summary>Reports whether one of the signatures was made with one of our secrets, a short time ago.</summary>
    public bool Verify(string id, string timestamp, string signatures, byte[] body)
    {
        if (id == null || signatures == null || !Regex.IsMatch(timestamp ?? "", @"^[0-9]{1,12}\z"))
        {
            return false;
        }
        var now = (DateTime.UtcNow - Epoch).TotalSeconds;
        if (Math.Abs(now - long.Parse(timestamp)) > Tolerance)
        {
            return false;
        }
        var head = Encoding.ASCII.GetBytes(id + "." + timestamp + ".");
        foreach (var secret in secrets)
        {
            string expected;
            using (var hmac = new HMACSHA256(secret))
            {
                hmac.TransformBlock(head, 0, head.Length, null, 0);
                hmac.TransformFinalBlock(body, 0, body.Length);
                expected = "v1," + Convert.ToBase64String(hmac.Hash);
            }
            foreach (var signature in signatures.Split(' '))
            {
                if (SameInConstantTime(signature, expected))
                {
                    return true;
                }
            }
        }
        return false;
    }

    /// <summary>Compares without ending at the first difference, from which a signature could be guessed.</summary>
    static bool SameInConstantTime(string a, string b)
    {
        var different = a.Length ^ b.Length;
        for (var i = 0; i < a.Length && i < b.Length; i++)
        {
            different |= a[i] ^ b[i];
        }
        return different == 0;
    }

    /// <summary>
    /// Works on the newest event of each order that has one waiting, also on those from before a restart.
    /// </summary>
    void Work()
    {
        while (true)
        {
            toDo.WaitOne(TimeSpan.FromMinutes(1));
            try
            {
                store.Waiting().ForEach(WorkOn);
            }
            catch (IOException error)
            {
                Console.Error.WriteLine(error); // the directory cannot be read: within a minute again
            }
        }
    }

    void WorkOn(string order)
    {
        try
        {
            var e = store.Read(order);
            Handle(e);
            store.Worked(e);
        }
        catch (Exception error)
        {
            Console.Error.WriteLine(error); // this order is worked on again within a minute; the others go on
        }
    }

    void Serve(HttpListenerContext context)
    {
        var status = 503; // if the store fails, for example: the relay sends the event again
        try
        {
            status = Answer(context.Request);
        }
        catch (Exception error)
        {
            Console.Error.WriteLine(error);
        }
        try
        {
            context.Response.StatusCode = status;
            context.Response.Close();
        }
        catch (Exception error)
        {
            Console.Error.WriteLine(error); // the sender has gone
        }
    }

    int Answer(HttpListenerRequest request)
    {
        if (request.Url.AbsolutePath != Path)
        {
            return 404;
        }
        if (request.HttpMethod != "POST")
        {
            return 405;
        }
        var body = ReadAll(request.InputStream); // the bytes as they came: the signature is of these
        if (body == null)
        {
            return 413;
        }
        var h = request.Headers;
        return Verify(h["webhook-id"], h["webhook-timestamp"], h["webhook-signature"], body) ? Receive(body) : 401;
    }

    static byte[] ReadAll(Stream stream)
    {
        var all = new MemoryStream();
        var buffer = new byte[64 * 1024];
        for (int n; (n = stream.Read(buffer, 0, buffer.Length)) > 0;)
        {
            if (all.Length + n > LargestBody)
            {
                return null;
            }
            all.Write(buffer, 0, n);
        }
        return all.ToArray();
    }

    static int Main(string[] args)
    {
        var store = new Store(args.Length > 1 ? args[1] : "receiver-data");
        var receiver = new Receiver(Environment.GetEnvironmentVariable("WEBHOOK_SECRET") ?? "", store);
        if (receiver.secrets.Count == 0)
        {
            Console.Error.WriteLine("WEBHOOK_SECRET has no secret: whsec_..., as shown when the callback was made");
            return 2;
        }
        var address = (args.Length > 0 ? args[0] : "127.0.0.1:3000").Split(':');
        var port = address[1] == "0" ? FreePort() : int.Parse(address[1]);
        var listener = new HttpListener();
        listener.Prefixes.Add("http://" + address[0] + ":" + port + "/");
        listener.Start();
        Console.Error.WriteLine("listening on http://{0}:{1}{2}", address[0], port, Path);
        new Thread(receiver.Work) { IsBackground = true }.Start();
        while (true)
        {
            var context = listener.GetContext();
            ThreadPool.QueueUserWorkItem(delegate { receiver.Serve(context); });
        }
    }

    static int FreePort()
    {
        var probe = new TcpListener(IPAddress.Loopback, 0);
        probe.Start();
        var port = ((IPEndPoint)probe.LocalEndpoint).Port;
        probe.Stop();
        return port;
    }
}

/// <summary>
/// One file for each order, replaced as a whole. It is here so that the example needs no database, and survives the end
/// of the program at any moment, but not every power cut. In your program its methods are three statements of SQL:
/// docs/receiving.md has them.
/// </summary>
public class Store
{
    readonly object gate = new object();
    readonly string made, sequences, waiting;

    public Store(string directory)
    {
        made = Path.Combine(directory, "new");
        sequences = Path.Combine(directory, "sequences"); // of each order's newest event
        waiting = Path.Combine(directory, "waiting");     // that event, until it has been worked on
        Directory.CreateDirectory(sequences);
        Directory.CreateDirectory(waiting);
    }

    /// <summary>
    /// The whole rule against repeats, late arrivals and replays: an event is stored if its sequence is above that of
    /// its order. Sequences have sixteen digits, so they compare as text.
    /// </summary>
    public bool StoreIfNewer(Event e, byte[] body)
    {
        lock (gate)
        {
            var file = Path.Combine(sequences, e.Subject);
            if (File.Exists(file) && string.CompareOrdinal(e.Sequence, File.ReadAllText(file)) <= 0)
            {
                return false;
            }
            // The event before its sequence: a crash between them repeats the event, and loses nothing.
            Replace(Path.Combine(waiting, e.Subject), body);
            Replace(file, Encoding.ASCII.GetBytes(e.Sequence));
            return true;
        }
    }

    void Replace(string file, byte[] content)
    {
        using (var stream = new FileStream(made, FileMode.Create))
        {
            stream.Write(content, 0, content.Length);
            stream.Flush(true);
        }
        if (File.Exists(file))
        {
            File.Replace(made, file, null);
        }
        else
        {
            File.Move(made, file);
        }
    }

    /// <summary>Returns the orders with an event that has not been worked on.</summary>
    public List<string> Waiting()
    {
        var orders = new List<string>();
        foreach (var file in Directory.GetFiles(waiting))
        {
            orders.Add(Path.GetFileName(file));
        }
        return orders;
    }

    public Event Read(string order)
    {
        lock (gate)
        {
            return Event.Parse(File.ReadAllBytes(Path.Combine(waiting, order)));
        }
    }

    /// <summary>Removes an event that was worked on. If a newer one has come meanwhile, that still waits.</summary>
    public void Worked(Event e)
    {
        lock (gate)
        {
            if (Read(e.Subject).Sequence == e.Sequence)
            {
                File.Delete(Path.Combine(waiting, e.Subject));
            }
        }
    }
}
